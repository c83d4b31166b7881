"""Files for llama.cpp at equal bytes: its own quantization with an importance matrix against GPTQ on the same types.

``python -m benchmarks gguf MODEL TEXTS``: MODEL is a folder or a hub id; TEXTS has a folder for each language, with ``train.jsonl`` to
calibrate on and ``test.jsonl`` to measure on. Both sides see the same tokens. The study stays under ``runs/``, so that a run that was
stopped goes on.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import studyctl
from benchmarks.page import note, table
from studyctl.files import runs_folder

PRESETS = ("IQ4_XS", "Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0")
CALIBRATED = ("en", "de", "zh", "sw")
TOKENS, LENGTH, WINDOWS = 8192, 256, 8
SPEC = """
[study]
name = "{name}"

[[models]]
id = "{model}"
dtype = "float32"

[text.texts]
files = {{ calibration = "{texts}/{{language}}/train.jsonl", perplexity = "{texts}/{{language}}/test.jsonl" }}

[calibration]
source = "texts"
languages = {calibrated}
samples = {samples}
sequence_length = {length}

[[compression]]
method = "gguf"
type = {presets}
imatrix = "calibration"

[[compression]]
method = "gptq"
grid = {grids}
target = [0, 0.5]

[evaluation.perplexity]
source = "texts"
languages = {languages}
sequence_length = {length}
windows = {windows}

[evaluation.fidelity]
metrics = ["kl", "top1"]
"""
RATIOS = """
SELECT ours.variant, ours.language, ours.kl_nats AS kl, theirs.kl_nats AS theirs, file_mib
FROM fidelity AS ours
JOIN fidelity AS theirs ON theirs.language = ours.language
    AND theirs.variant = 'gguf-' || split_part(ours.variant, '-', 2) || '-imatrix'
JOIN trials ON trials.trial_id = ours.trial_id
WHERE ours.variant LIKE 'gptq-%'
ORDER BY position
"""


def main(arguments: Sequence[str]) -> None:
    """Run the study of a model and show its ratios."""
    if len(arguments) != 2:
        sys.exit("usage: python -m benchmarks gguf MODEL TEXTS")
    model, texts = arguments[0], Path(arguments[1]).resolve()
    languages = sorted(path.name for path in texts.iterdir() if (path / "test.jsonl").is_file())
    calibrated = [language for language in CALIBRATED if language in languages] or languages[:1]
    name = f"gguf-{Path(model).name}"
    folder = runs_folder()
    folder.mkdir(exist_ok=True)
    spec = folder / f"{name}.toml"
    spec.write_text(
        SPEC.format(
            name=name,
            model=Path(model).resolve() if Path(model).is_dir() else model,
            texts=texts,
            calibrated=_listed(calibrated),
            samples=TOKENS // LENGTH,
            length=LENGTH,
            presets=_listed(PRESETS),
            grids=_listed(f"gguf:{preset}" for preset in PRESETS),
            languages=_listed(languages),
            windows=WINDOWS,
        )
    )
    subprocess.run([sys.executable, "-m", "studyctl", "run", str(spec)], check=True)
    with studyctl.open(name) as study:
        rows = study.sql(RATIOS).arrow().to_pylist()
    _show(rows, calibrated)
    note(
        f"KL to dense in nats a token of {WINDOWS} windows of {LENGTH} tokens a language, mean over languages; ratio: GPTQ's KL over "
        f"that of llama.cpp's own file with an importance matrix of the same {TOKENS:,} tokens ({', '.join(calibrated)}), geometric "
        "mean over languages"
    )


def _show(rows: list[dict[str, Any]], calibrated: Sequence[str]) -> None:
    of_variant: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_variant.setdefault(row["variant"], []).append(row)
    shown = []
    for variant, cells in of_variant.items():
        apart = [
            [cell for cell in cells if (cell["language"] in calibrated) is seen] for seen in (True, False)
        ]
        ratios = [_ratio(part) for part in apart]
        shown.append(
            (
                variant.removeprefix("gptq-"),
                f"{cells[0]['file_mib']:.2f}",
                f"{fmean(cell['theirs'] for cell in cells):.6f}",
                f"{fmean(cell['kl'] for cell in cells):.6f}",
                *("–" if ratio is None else f"{ratio:.3f}" for ratio in ratios),
            )
        )
    header = ("preset", "MiB", "KL of llama.cpp", "KL of GPTQ", "ratio, calibrated", "ratio, other languages")
    table(header, shown)


def _ratio(cells: Sequence[dict[str, Any]]) -> float | None:
    return geometric_mean(cell["kl"] / cell["theirs"] for cell in cells) if cells else None


def _listed(texts: Iterable[str]) -> str:
    return json.dumps(list(texts))

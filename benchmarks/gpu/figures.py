"""A study on the GPU, in float32 and in bfloat16, beside the same one on the CPU in float32: every method, on 0.1 B parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.made import VARIANTS, Size, finished, make_model, make_texts, start, write_study
from benchmarks.page import note, table
from studyctl.files import StudyPaths
from studyctl.store.query import run_sql

PERPLEXITY_LIMIT = {"float32": 1e-3, "bfloat16": 1e-2}
"""Most that a perplexity on the GPU may differ from the CPU's, as a fraction."""
KL_LIMIT = {"float32": 0.03, "bfloat16": 0.25}
"""Most that a KL to dense may differ, as a fraction: a rounding that falls the other way changes the columns after it."""
KL_FLOOR = {"float32": 1e-6, "bfloat16": 1e-5}
"""And beside that, in nats: what the logits' rounding alone gives."""
SQL = """
SELECT l.variant, l.kl_nats, p.perplexity, l.acc
FROM leaderboard l JOIN perplexity p USING (trial_id) JOIN trials t USING (trial_id) ORDER BY t.position
"""


class Figures(NamedTuple):
    """What a study measured of a variant."""

    kl: float
    perplexity: float
    accuracy: float


def main(folder: Path, size: Size, device: str) -> bool:
    """Return whether all figures agree."""
    model, texts = make_model(folder / "model", size, device), make_texts(folder / "texts", size)
    runs = {"CPU": ("cpu", "float32"), "float32": (device, "float32"), "bfloat16": (device, "bfloat16")}
    specs = {
        name: write_study(folder, name, model, texts, size, dtype=dtype, device=where, variants=VARIANTS)
        for name, (where, dtype) in runs.items()
    }
    # The CPU computes beside the GPU; the GPU's two one after the other, so that they have its memory.
    on_cpu = start(specs["CPU"])
    for name in ("float32", "bfloat16"):
        finished(start(specs[name]), specs[name])
    finished(on_cpu, specs["CPU"])
    figures = {name: _figures(folder, name) for name in runs}
    rows, wrong = [], []
    for variant, expected in figures["CPU"].items():
        seen = {name: figures[name][variant] for name in ("float32", "bfloat16")}
        for name, one in seen.items():
            if not agrees(one, expected, name):
                wrong.append(f"{variant} in {name}")
        rows.append((variant, *_cells(expected, *seen.values())))
    table(
        ("variant", "KL, CPU", "GPU fp32", "GPU bf16", "perplexity, CPU", "GPU fp32", "GPU bf16", "acc"), rows
    )
    note(
        "perplexity within "
        + " and ".join(f"{limit:.1%} in {dtype}" for dtype, limit in PERPLEXITY_LIMIT.items())
        + ", KL within "
        + " and ".join(f"{limit:.0%} in {dtype}" for dtype, limit in KL_LIMIT.items())
        + (": all agree" if not wrong else f": these do not: {', '.join(wrong)}")
    )
    return not wrong


def agrees(one: Figures, expected: Figures, dtype: str) -> bool:
    """Return whether the figures of a variant are those of the CPU, to the rounding of a dtype."""
    near = abs(one.perplexity / expected.perplexity - 1) <= PERPLEXITY_LIMIT[dtype]
    return near and abs(one.kl - expected.kl) <= KL_LIMIT[dtype] * expected.kl + KL_FLOOR[dtype]


def _figures(folder: Path, name: str) -> dict[str, Figures]:
    rows = run_sql(StudyPaths(folder / "runs" / name), SQL).to_pylist()
    return {row["variant"]: Figures(row["kl_nats"] or 0.0, row["perplexity"], row["acc"]) for row in rows}


def _cells(*figures: Figures) -> Sequence[str]:
    kl, perplexity = ([f"{one[index]:.5g}" for one in figures] for index in (0, 1))
    return [*kl, *perplexity, " ".join(f"{one.accuracy:.3f}" for one in figures)]

"""The model card of an exported folder: what it is, how it was made, what was measured, and how to load it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from studyctl.backends import OWN
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import Job
from studyctl.contract.limits import LEAST_UNITS
from studyctl.contract.methods import Pruning, Quantization
from studyctl.contract.servers import marlin_gaps
from studyctl.report.effects import effect
from studyctl.report.layout import MISSING, fixed, ratio
from studyctl.report.sizes import OF_PRUNED
from studyctl.store.figures import Figures
from studyctl.store.results import LanguageResult, Standing, TaskResult
from studyctl.store.schema import LEAD
from studyctl.units import bytes_text

if TYPE_CHECKING:
    from studyctl.compress.weights.packing import Packing
    from studyctl.export.folder import Exported
    from studyctl.export.gguf.file import GgufFile

COMPARED = ("ppl_ratio", "kl_nats", "bits_per_byte_change", "change")
"""Figures of languages and tasks that are compared with dense."""
PACKAGES = ("torch", "transformers", "compressed-tensors")
"""Packages whose versions a card lists, beside this one's."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says."""

    job: Job
    """The trial."""
    base: ModelIdentity
    """The model that was compressed, or the published checkpoint."""
    exported: "Exported | GgufFile"
    weights_hash: str
    bits_per_weight: float | None
    """Of the blocks' linears, by the settings; None if unknown."""
    sparsity: float | None
    figures: Figures
    versions: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the card for programs, JSON-serialisable."""
        job, exported = self.job, self.exported
        copied = {"trial", "method", "variant", "backend", "seed", "settings", "weights_key"}
        return {
            "version": 1,
            "study": job.root.name,
            "model": {"id": self.base.id, "commit": self.base.commit, "key": self.base.key},
            **job.model_dump(mode="json", include=copied),
            "calibration": job.calibration_settings,
            "weights_hash": self.weights_hash,
            "bits_per_weight": self.bits_per_weight,
            "sparsity": self.sparsity,
            "export": {
                key: value for key, value in asdict(exported).items() if key not in ("folder", "path")
            },
            "figures": {"languages": _rows(self.figures.languages), "tasks": _rows(self.figures.tasks)},
            "versions": dict(self.versions),
        }


def _rows(rows: Sequence[LanguageResult | TaskResult]) -> list[dict[str, Any]]:
    """Return rows without the columns that identify the trial."""
    return [{name: value for name, value in row._asdict().items() if name not in LEAD} for row in rows]


def model_card(facts: CardFacts) -> str:
    """Return the text of ``README.md``, with the YAML header that model hubs read."""
    sections = [
        _header(facts),
        f"# {facts.job.model.short_name}: {facts.job.variant}",
        _summary(facts),
        "\n".join(_loading(facts)),
        "## What it is\n\n" + _table(("", ""), list(_identity(facts))),
        "## Size\n\n" + "\n".join(_size(facts)),
        "## Measured\n\n" + "\n\n".join(_measured(facts.figures)),
        "## Made with\n\n"
        + _table(("package", "version"), [[name, version] for name, version in facts.versions.items()]),
    ]
    return "\n\n".join(sections) + "\n"


def _header(facts: CardFacts) -> str:
    base = [f"base_model: {facts.base.repository}"] if facts.base.kind == "hub" else []
    gguf = _gguf(facts)
    packed = ["gguf"] if gguf else ["compressed-tensors"] if _folder(facts).packing else []
    tags = [f"- {tag}" for tag in ("studyctl", *facts.job.method.split("+"), *packed)]
    lines = [
        "---",
        *base,
        f"library_name: {'gguf' if gguf else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags:",
        *tags,
        "---",
    ]
    return "\n".join(lines)


def _summary(facts: CardFacts) -> str:
    if facts.job.is_dense:
        return (
            f"The weights of `{facts.base.id}` as they are: the dense model that variants are compared with."
        )
    if facts.job.is_checkpoint:
        return f"The published checkpoint `{facts.base.id}`, with its weights unpacked."
    made = f"`{facts.base.id}`, compressed by `{facts.job.method}`. The licence is that of the base model."
    if (file := _gguf(facts)) is not None:
        same = "these are the weights that were measured, bit for bit"
        if file.differing or file.rounded_embeddings:
            same = "how it differs from the weights that were measured is said under Size"
        return f"{made} The file was read back and compared: {same}."
    return f"{made} The folder was read back with plain transformers and compared: these are the weights that were measured, bit for bit."


def _gguf(facts: CardFacts) -> "GgufFile | None":
    from studyctl.export.gguf.file import GgufFile

    return facts.exported if isinstance(facts.exported, GgufFile) else None


def _folder(facts: CardFacts) -> "Exported":
    from studyctl.export.folder import Exported

    assert isinstance(facts.exported, Exported)
    return facts.exported


def _loading(facts: CardFacts) -> Iterator[str]:
    yield "## Load\n"
    if (file := _gguf(facts)) is not None:
        yield f"```sh\nllama-cli -m {file.path.name}\n```"
        return
    exported = _folder(facts)
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield 'model = AutoModelForCausalLM.from_pretrained("this/folder", dtype="auto")'
    yield 'tokenizer = AutoTokenizer.from_pretrained("this/folder")'
    yield "```\n"
    packing = exported.packing
    if packing is None:
        yield "Plain safetensors: any version of transformers or vLLM that knows the architecture."
        return
    kind = "symmetric" if packing.symmetric else "asymmetric"
    order = ", groups in the order of activations" if packing.indexed else ""
    yield f"- transformers: `pack-quantized`, {kind}{order}, is read by compressed-tensors {_readers(packing)}."
    yield f"- Load it as `{exported.dtype}`, in which it was packed: with another dtype, products are rounded differently."
    unfit = _unfit_for_vllm(exported, packing)
    gaps = f" According to its source code, it has no kernel for {' and '.join(unfit)}." if unfit else ""
    yield f"- vLLM: the layout is the one that its `compressed-tensors` loader reads; not tried with this folder.{gaps}"


def _readers(packing: "Packing") -> str:
    """Return which of the versions of compressed-tensors that were tried (0.9.3 to 0.20.0) load this packing."""
    if not packing.symmetric:
        return "0.15.0.1 to 0.17.1 with transformers 5"
    newest = "0.18.0" if packing.indexed else "0.20.0"
    return f"0.9.3 to {newest} with transformers 4.51 to 5"


def _unfit_for_vllm(exported: "Exported", packing: "Packing") -> list[str]:
    unfit = marlin_gaps(packing.bits, packing.group_size, symmetric=packing.symmetric)
    if exported.dtype == "float32":
        unfit.append("float32 (16 bits)")
    return unfit


def _identity(facts: CardFacts) -> Iterator[Sequence[str]]:
    job, base = facts.job, facts.base
    yield (
        "checkpoint" if job.is_checkpoint else "base model",
        f"`{base.id}`" + (f", commit `{base.commit}`" if base.commit else ""),
    )
    if base.kind == "hub":
        yield "revision", f"`{job.model.revision}`"
    if base.commit is None and base.key is not None:
        yield "contents", f"`{base.key}` (hash of weights, config and tokenizer)"
    yield "variant", f"`{job.variant}`"
    yield "method", f"`{job.method}`" + (f" by {job.backend}" if job.backend != OWN else "")
    settings = {key: value for key, value in job.settings if key != "method" and value is not None}
    if settings:
        texts = (
            f"`{key} = {str(value).lower() if isinstance(value, bool) else value}`"
            for key, value in settings.items()
        )
        yield "settings", ", ".join(texts)
    yield "calibration", _calibration(job)
    if job.seed is not None:
        yield "seed", str(job.seed)
    yield "study, trial", f"{job.root.name}, `{job.trial}`"
    yield "weights", f"`{facts.weights_hash}` (SHA-256 of the decoder blocks' parameters)"


def _calibration(job: Job) -> str:
    calibration = job.calibration
    if calibration is None:
        return "none: the method uses no data"
    if calibration.ids is not None:
        return f"token ids of `{calibration.ids.file.path.name}`"
    windows = f"{calibration.samples} windows of {calibration.sequence_length} tokens"
    languages = ", ".join(text.language for text in calibration.texts)
    return f"`{calibration.texts[0].name}`, {languages}: {windows}"


def _size(facts: CardFacts) -> Iterator[str]:
    job = facts.job
    rows = [
        ["by the settings, linears of the blocks", fixed(facts.bits_per_weight, 2).plain],
        ["as stored, linears of the blocks", fixed(facts.exported.block_bits_per_weight, 2).plain],
        ["as stored, whole model", fixed(facts.exported.model_bits_per_weight, 2).plain],
    ]
    yield _table(("bits per weight", ""), rows)
    if (file := _gguf(facts)) is not None:
        from studyctl.export.gguf.export import notes_of

        yield f"\n{bytes_text(file.bytes)}.\n"
        yield from (f"- {note}" for note in notes_of(file))
        if facts.sparsity and isinstance(job.settings, Pruning):
            yield _sparse(facts.sparsity)
        return
    exported = _folder(facts)
    files = "1 file" if exported.weight_files == 1 else f"{exported.weight_files} files"
    how = f"codes packed at {exported.packing.bits} bits, scales in" if exported.packing else "in"
    yield f"\n{bytes_text(exported.weight_bytes)} in {files}, {how} {exported.dtype}."
    bits = job.settings.bits if isinstance(job.settings, Quantization) else None
    if exported.packing is not None and bits != exported.packing.bits:
        yield f"Codes of {bits} bits are stored at {exported.packing.bits}, the next width that loaders support."
    if exported.why_plain:
        yield f"The weights are quantized but stored plain: {exported.why_plain}."
    if facts.sparsity and exported.packing is None and isinstance(job.settings, Pruning):
        yield _sparse(facts.sparsity)


def _sparse(sparsity: float) -> str:
    zeros = f"{100 * sparsity:.1f} % of the blocks' weights are zero but stored like the others"
    return f"\n{zeros}: the file is as large as the dense one. {OF_PRUNED}"


def _measured(figures: Figures) -> Iterator[str]:
    if not figures.languages and not figures.tasks:
        yield "Nothing has been measured for this variant yet."
        return
    if figures.languages:
        yield from _of_languages(figures.languages)
    if figures.tasks:
        yield from _of_tasks(figures.tasks, figures.means)
    results: list[LanguageResult | TaskResult] = [*figures.languages, *figures.tasks]
    compared = [
        effect(result, name)
        for result in results
        if result.variant != "dense"
        for name in COMPARED
        if hasattr(result, name)
    ]
    if any(one.has_interval for one in compared):
        yield (
            "In brackets: 95 % intervals over windows of these texts and items of these tasks, not over other languages or "
            "models. Where one holds no change (×1, 0), none can be excluded."
        )
    if any(one.value is not None and not one.has_interval for one in compared):
        yield f"Without brackets: fewer than {LEAST_UNITS} windows or items, or measured by an earlier version."


def _of_languages(results: Sequence[LanguageResult]) -> Iterator[str]:
    head = (
        "language", "perplexity (per token)", "to dense", "KL to dense (nats per token)", "top-1 agreement",
        "bits per byte", "change to dense",
    )  # fmt: skip
    rows = [
        [
            result.language,
            ratio(result.perplexity).plain,
            _compared(result, "ppl_ratio", "×"),
            _distance(result),
            fixed(result.top1, 3).plain,
            fixed(result.bits_per_byte, 3).plain,
            _compared(result, "bits_per_byte_change"),
        ]
        for result in results
    ]
    yield _table(head, rows)
    if unknown := [result.language for result in results if result.dense_knows is False]:
        yield f"The dense model does not know {', '.join(unknown)}: it predicts the text no better than bzip2."


def _of_tasks(results: Sequence[TaskResult], means: Standing) -> Iterator[str]:
    head = ("task", "metric", "value", "standard error", "change to dense")
    rows = [
        [
            result.label,
            result.metric,
            fixed(result.value, 3).plain,
            fixed(result.stderr, 3).plain,
            _compared(result, "change")
            + (", at chance" if result.main and result.above_chance is False else ""),
        ]
        for result in results
    ]
    yield _table(head, rows)
    if means.tasks_above_chance not in (None, means.tasks):
        all_tasks = f"{fixed(means.acc, 3)}, change {_compared(means, 'acc_change')}"
        above = f"{fixed(means.acc_above_chance, 3)}, change {_compared(means, 'acc_change_above_chance')}"
        yield f"Mean of {means.tasks} tasks: {all_tasks}; of the {means.tasks_above_chance} above chance: {above}."


def _compared(row: LanguageResult | TaskResult | Standing, name: str, prefix: str = "") -> str:
    """Return a figure with its interval in brackets; the dense model is compared with nothing."""
    if row.variant == "dense":
        return MISSING
    figure = effect(row, name, prefix)
    return figure.figure() + (f" ({figure.ends()})" if figure.has_interval else "")


def _distance(result: LanguageResult) -> str:
    """Return the KL with its interval: three digits, however small it is."""
    low, high = result.kl_nats_low, result.kl_nats_high
    shown = MISSING if result.kl_nats is None else f"{result.kl_nats:.3g}"
    return shown if low is None or high is None else f"{shown} ({low:.3g} to {high:.3g})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

"""Checks of models, checkpoints and variants that need no weights."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import gcd
from pathlib import Path

from studyctl.backends import OWN
from studyctl.contract.identity import GGUF, PLAIN, ModelIdentity, TextIdentity
from studyctl.contract.limits import LEAST_UNITS, LEFT_DENSE
from studyctl.contract.methods import too_few_tokens, uses_data
from studyctl.errors import Problem
from studyctl.plan.variants import Variant
from studyctl.sources.checkpoints import is_readable, storage_caveats
from studyctl.sources.configs import has_other_linears
from studyctl.sources.gguf.files import differences
from studyctl.sources.token_counts import MARGIN, count_tokens
from studyctl.spec.loading import Document
from studyctl.spec.models import Model, Perplexity
from studyctl.spec.positions import Loc

NAMED = 4
"""Texts that a warning names."""
SHARED_BLOCKS = ("zamba", "zamba2")
"""Families with weights that several blocks share."""
UNPACKED_BY_TRANSFORMERS = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Formats that transformers unpacks itself, with the class of their settings."""


def check_model(document: Document, loc: Loc, model: Model, identity: ModelIdentity) -> Iterator[Problem]:
    """Yield an error if a model's weights are packed, and what its files leave open as warnings."""
    if identity.storage != PLAIN:
        hint = "name the model that it was made from; weights in this format cannot be measured"
        if is_readable(identity.storage):
            hint = (
                "measure it beside the model that it was made from: a `[[compression]]` table with "
                f'`method = "checkpoint"`, `id = "{model.id}"` and `of`, the id of that model'
            )
        elif identity.storage in UNPACKED_BY_TRANSFORMERS:
            hint = (
                "name the model that it was made from, or a plain copy: load it with `dequantize=True` in transformers' "
                f"{UNPACKED_BY_TRANSFORMERS[identity.storage]}, then `save_pretrained(..., save_original_format=False)`"
            )
        what = f"the weights of `{model.id}` are quantized already ({identity.storage}): they are no dense model to compress"
        yield document.problem(what, loc, hint=hint)
    for caveat in identity.caveats:
        yield document.problem(caveat, loc, severity="warning")


def check_linears(
    document: Document, model: Model, identity: ModelIdentity, variants: Iterable[Variant]
) -> Iterator[Problem]:
    """Yield a problem for each variant whose group size or pattern does not divide the inputs of a linear."""
    kinds: dict[int, list[str]] = defaultdict(list)
    for name, (_, inputs) in identity.linears.items():
        kinds[inputs].append(next(part for part in name.split(".")[::-1] if not part.isdigit()))
    common = gcd(*kinds)
    for variant in variants:
        refused = {width: refusal for width in kinds if (refusal := variant.settings.problem_with(width))}
        if not refused:
            continue
        key, reason = next(iter(refused.values()))
        names = [name for width in refused for name in kinds[width]]
        widths = ", ".join(map(str, sorted(refused)))
        hint = f"the inputs of all linears are multiples of {common}"
        if key == "group_size":
            best = next((size for size in (128, 64, 32, 16, 8) if common % size == 0), common)
            hint = f"{best} divides every linear of this model; 0 gives one scale per output channel"
        yield document.problem(
            f"{reason} the input of {len(names)} linears (in = {widths})",
            (*variant.loc, key),
            note=f"{model.short_name}: {', '.join(dict.fromkeys(names))}",
            hint=hint,
        )


def check_calibration_tokens(
    document: Document, loc: Loc, samples: int, length: int, identity: ModelIdentity | None
) -> Iterator[Problem]:
    """Yield a warning if so many samples of this length have too few tokens for the Hessians of the widest linears."""
    linears = identity.linears.values() if identity is not None else ()
    widest = max((inputs for _, inputs in linears), default=0)
    if identity is not None and (what := too_few_tokens(samples * length, widest)) is not None:
        hint = f"{-(-2 * widest // length):,} samples of {length:,} tokens would do"
        yield document.problem(f"{identity.short_name}: {what}", loc, hint=hint, severity="warning")


def check_walk(
    document: Document, loc: Loc, identity: ModelIdentity, variants: Iterable[Variant]
) -> Iterator[Problem]:
    """Yield a problem for each variant that needs more of the decoder blocks than can be walked.

    Args:
        document: the spec.
        loc: where the model is named.
        identity: of the model.
        variants: its own.
    """
    variants = list(variants)
    dense = sum(identity.others.values())
    share = dense / max(1, dense + sum(out * inputs for out, inputs in identity.linears.values()))
    if share > LEFT_DENSE and any(variant.is_walked for variant in variants):
        largest = sorted(identity.others, key=lambda name: -identity.others[name])[:4]
        yield document.problem(
            f"{share:.0%} of the weights of the blocks of {identity.short_name} are in no linear that can be compressed",
            loc,
            note=", ".join(largest),
            hint="a model of this architecture can only be measured, not compressed",
        )
    family = identity.config.get("model_type")
    for variant in variants:
        if family in SHARED_BLOCKS and variant.is_walked and uses_data(variant.settings):
            yield document.problem(
                f"blocks of the family {family} share weights, so {variant.method} cannot compress them one after the other",
                variant.loc,
                note=identity.short_name,
                hint="methods without data (magnitude, rtn) can compress this model",
            )
        if variant.backend != OWN and has_other_linears(identity.linears, str(family)):
            yield document.problem(
                f"backend `{variant.backend}` compresses modules of the class Linear only, and {identity.short_name} has others",
                variant.loc,
                hint='experts and GPT-2\'s Conv1D need `backend = "studyctl"`',
            )


def check_sequence_length(
    document: Document, loc: Loc, length: int, identity: ModelIdentity | None
) -> Iterator[Problem]:
    """Yield a problem if windows are longer than the model's maximum."""
    if identity is not None and identity.key is not None and 0 < identity.max_positions < length:
        maximum = identity.max_positions
        what = f"sequence length {length} is over the maximum of {identity.short_name}, {maximum}"
        yield document.problem(what, loc, hint=f"{maximum} or less")


def too_short(text: TextIdentity, model: ModelIdentity | None, tokens: int) -> tuple[str, str] | None:
    """Return the size of a text and a severity if it has fewer tokens than are needed: ``error`` where that is certain."""
    if text.bytes is not None and text.bytes < tokens:  # a token has at least one byte
        return f"{text.bytes:,} bytes", "error"
    count = count_tokens(text, model) if model is not None else None
    if count is None or count.tokens >= tokens:
        return None
    return str(count), "error" if count.whole and count.tokens < (1 - MARGIN) * tokens else "warning"


def check_windows(
    document: Document, loc: Loc, text: TextIdentity, model: ModelIdentity | None, protocol: Perplexity
) -> Iterator[Problem]:
    """Yield a warning if a text has fewer windows than are asked for, or than an interval needs."""
    count = count_tokens(text, model) if model is not None else None
    if count is None:
        return
    length = protocol.sequence_length
    windows = count.tokens // (length - 1)  # one of a window's tokens may be a BOS
    what = f"text `{text.name}` in {text.language} has about {windows:,} windows of {length} tokens"
    # Nobody who left `windows` out asked for its default.
    asked = protocol.windows if document.written(("evaluation", "perplexity", "windows")) else 0
    if windows < LEAST_UNITS:
        what, hint = f"{what}: fewer than {LEAST_UNITS} leave no interval", "shorter windows, or more text"
    elif windows < asked:
        what, hint = f"{what}, {asked} are asked for", "all of them are measured, as with `windows = 0`"
    else:
        return
    yield document.problem(what, loc, hint=hint, severity="warning")


def check_seen_texts(document: Document, texts: Sequence[TextIdentity]) -> Iterator[Problem]:
    """Yield a warning if variants are measured on a text, or a part of it, that they were calibrated on."""
    contents = [(text, _contents(text, document.base)) for text in texts]
    seen = {key for text, parts in contents if text.purpose == "calibration" for key in parts}
    shared = [
        (text, f"{name} ({text.language})")
        for text, parts in contents
        if text.purpose != "calibration"
        for key, name in parts.items()
        if key in seen
    ]
    if shared:
        text, names = shared[0][0], [name for _, name in shared]
        listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        kind = "files" if text.files else "split"
        yield document.problem(
            f"calibration and perplexity share {listed}: perplexity on calibration text is too low",
            ("text", text.name, kind),
            hint=f'give each purpose its own: {kind} = {{ calibration = "…", perplexity = "…" }}',
            severity="warning",
        )


def _contents(text: TextIdentity, base: Path) -> dict[str, str]:
    """Return what a text is made of, by hash: its files, or a split of a dataset."""
    if text.files:
        # The spec's folder is left out of a path.
        return {file.sha256: f"`{str(file.path).removeprefix(f'{base}/')}`" for file in text.files}
    return {text.key: f"`{text.split}` of dataset `{text.dataset}`"} if text.key is not None else {}


def check_checkpoint(
    document: Document, loc: Loc, checkpoint: ModelIdentity, model: Model, base: ModelIdentity | None
) -> Iterator[Problem]:
    """Yield errors if a checkpoint cannot be compared with its model, and warnings about what its figures leave out.

    Args:
        document: the spec.
        loc: where the checkpoint is named.
        checkpoint: its identity.
        model: the model that it is compared with.
        base: the identity of that model; None if it has problems itself.
    """
    evaluation, is_known = document.spec.evaluation, base is not None and base.key is not None
    if checkpoint.storage == GGUF:
        for difference in differences(checkpoint, base) if base is not None and is_known else ():
            hint = "`of` names the model that the file was made from, with the same config and tokenizer"
            yield document.problem(difference, loc, hint=hint)
    elif base is not None and is_known and checkpoint.vocab_size != base.vocab_size:
        # Perplexity only needs the same tokens; KL, top-1 and SNR compare logit by logit.
        compared = evaluation.fidelity is not None
        yield document.problem(
            f"`{checkpoint.id}` has a vocabulary of {checkpoint.vocab_size:,}, `{model.id}` one of {base.vocab_size:,}",
            loc,
            hint="fidelity compares logit by logit: leave out [evaluation.fidelity], or this checkpoint"
            if compared
            else "their perplexities can be compared only if the tokens are the same; a run checks that",
            severity="error" if compared else "warning",
        )
    if evaluation.perplexity is not None:
        yield from check_sequence_length(document, loc, evaluation.perplexity.sequence_length, checkpoint)
    if not checkpoint.tokenizer and checkpoint.storage != GGUF:
        what = f"`{checkpoint.id}` has no tokenizer: that of `{model.id}` is used"
        yield document.problem(what, loc, severity="warning")
    for caveat in (
        *checkpoint.caveats,
        *(f"`{checkpoint.id}`: {caveat}" for caveat in storage_caveats(checkpoint.config)),
    ):
        yield document.problem(caveat, loc, severity="warning")

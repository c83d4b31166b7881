"""Variants in llama.cpp's blocks, as far as a model's headers tell: which matrix gets which type, and what cannot be written."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from studyctl.contract.gguf import FAMILIES, SMALLEST_BLOCK, BlockType, Shape, mixture
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Gguf, OnGguf, uses_data
from studyctl.errors import Problem
from studyctl.plan.variants import Variant
from studyctl.spec.loading import Document
from studyctl.spec.models import Model

VOCABULARY = ("model.embed_tokens", "lm_head")


class Matrix(NamedTuple):
    """A matrix in blocks."""

    out: int
    inputs: int
    kind: BlockType

    @property
    def bytes(self) -> int:
        """Return the bytes of its blocks."""
        return self.out * self.kind.row_bytes(self.inputs)


def matrices_in_blocks(model: ModelIdentity, settings: OnGguf) -> dict[str, Matrix]:
    """Return the linears, the embedding and the head of a model, which fit (:func:`check_blocks`), with their types."""
    vocabulary = (model.vocab_size, model.hidden_size)
    shapes = model.linears | dict.fromkeys(VOCABULARY[: 1 if model.tied else 2], vocabulary)
    shape = Shape(model.layers, model.heads // (model.kv_heads or model.heads))
    kinds = mixture(settings.preset, shapes, shape, has_imatrix=uses_data(settings))
    return {name: Matrix(*shapes[name], kind) for name, kind in kinds.items()}


def bytes_in_blocks(model: ModelIdentity, settings: OnGguf) -> int:
    """Return the bytes of all tensors of a GGUF file: vectors are fp32 there."""
    matrices = matrices_in_blocks(model, settings).values()
    vectors = model.parameters - sum(matrix.out * matrix.inputs for matrix in matrices)
    return 4 * vectors + sum(matrix.bytes for matrix in matrices)


def fits(model: ModelIdentity) -> bool:
    """Return whether a model can be written in llama.cpp's blocks."""
    widths = {inputs for _, inputs in model.linears.values()} | {model.hidden_size}
    return model.config.get("model_type") in FAMILIES and not any(width % SMALLEST_BLOCK for width in widths)


def check_blocks(
    document: Document, model: Model, identity: ModelIdentity, variants: Iterable[Variant]
) -> Iterator[Problem]:
    """Yield a problem for each variant in blocks of a family that is not written, and a warning where a preset has to change types."""
    family = identity.config.get("model_type")
    for variant in variants:
        settings = variant.settings
        if not isinstance(settings, OnGguf):
            continue
        option = "type" if isinstance(settings, Gguf) else "grid"
        loc = variant.place_of(document, option, getattr(settings, option))
        if family not in FAMILIES:
            yield document.problem(
                f"models of type `{family}` are not written as GGUF",
                loc,
                note=model.short_name,
                hint=f"there are: {', '.join(FAMILIES)}",
            )
        elif identity.linears and fits(identity):
            matrices = matrices_in_blocks(identity, settings)
            narrow = sum(matrix.inputs % 256 != 0 for matrix in matrices.values())
            if narrow and settings.preset.base.inputs == 256:
                kinds = Counter(matrix.kind for matrix in matrices.values())
                mix = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
                what = f"{model.short_name}: {narrow} of {len(matrices)} matrices have inputs that are no multiple of 256, so "
                yield document.problem(f"{what}`{settings.preset}` is {mix}", loc, severity="warning")

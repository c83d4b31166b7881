"""Where the decoder blocks of a model are, which linears of a block share an input, and what can absorb a scale.

Blocks are found in every model: they are the module list that holds the most weights in linears. Stages of the families
in :data:`FAMILIES` are known; in other models the linears that receive the same tensor are found by hooks while
a block runs (:func:`observed_stages`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from studyctl.errors import StepError


@dataclass(frozen=True)
class Absorber:
    """A module before a stage that can take over a scale of the stage's input channels.

    A norm takes it over in its weight (and bias). A linear takes it over in its last ``in`` rows, ``in`` being the
    stage's inputs; that is exact only if it has ``parts · in`` rows, which heads that share keys and values have not.
    """

    module: str
    parts: int = 1
    """How many tensors of ``in`` channels a linear computes at once; the stage's input comes from the last."""
    adds_one: bool = False
    """Whether a norm multiplies by ``1 + weight``."""


@dataclass(frozen=True)
class StageRow:
    """Linears of a block that share an input, named from the block."""

    linears: tuple[str, ...]
    absorber: Absorber | None


@dataclass(frozen=True)
class Family:
    """How the blocks of a model family are built."""

    stages: tuple[StageRow, ...]


def _attention_and_mlp(attention_norm: Absorber | None, mlp_norm: Absorber | None) -> Family:
    """Return a family whose blocks have separate projections and a gated MLP."""
    return Family(
        (
            StageRow(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), attention_norm),
            StageRow(("self_attn.o_proj",), Absorber("self_attn.v_proj")),
            StageRow(("mlp.gate_proj", "mlp.up_proj"), mlp_norm),
            StageRow(("mlp.down_proj",), Absorber("mlp.up_proj")),
        )
    )


_LLAMA = _attention_and_mlp(Absorber("input_layernorm"), Absorber("post_attention_layernorm"))
_GEMMA = _attention_and_mlp(
    Absorber("input_layernorm", adds_one=True), Absorber("pre_feedforward_layernorm", adds_one=True)
)
_PHI3 = Family(
    (
        StageRow(("self_attn.qkv_proj",), Absorber("input_layernorm")),
        StageRow(("self_attn.o_proj",), Absorber("self_attn.qkv_proj", parts=3)),
        StageRow(("mlp.gate_up_proj",), Absorber("post_attention_layernorm")),
        StageRow(("mlp.down_proj",), Absorber("mlp.gate_up_proj", parts=2)),
    )
)

FAMILIES: dict[str, Family] = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": _attention_and_mlp(None, None),  # norms come after attention and MLP, not before
    "phi3": _PHI3,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""By ``model_type`` of the config."""


@dataclass(frozen=True)
class Block:
    """A decoder block."""

    index: int
    name: str
    """Such as ``model.layers.0``."""
    module: nn.Module
    linears: dict[str, nn.Linear]
    """By full name, in the order in which the model holds them."""


@dataclass(frozen=True)
class Stage:
    """Linears of a block that receive the same input."""

    linears: dict[str, nn.Linear]
    """By full name."""
    absorber: Absorber | None = None
    """What can take over a scale of the stage's inputs exactly."""


def decoder_blocks(model: nn.Module) -> list[Block]:
    """Return the decoder blocks of a model, in order.

    Raises:
        StepError: no module list of this model holds linears.
    """
    best_name, best, most = "", None, 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            inside = (part for part in module.modules() if isinstance(part, nn.Linear))
            weights = sum(linear.weight.numel() for linear in inside)
            # The list of blocks comes before the lists inside of blocks, which never hold more.
            if weights > most:
                best_name, best, most = name, module, weights
    if best is None:
        raise StepError(
            f"no decoder blocks with linear layers found in `{type(model).__name__}`",
            hint="models whose blocks hold no torch.nn.Linear cannot be compressed",
        )
    return [_block(index, f"{best_name}.{index}", module) for index, module in enumerate(best)]


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every linear of the decoder blocks by full name, in the model's order."""
    return {name: linear for block in decoder_blocks(model) for name, linear in block.linears.items()}


def block_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter of the decoder blocks by full name, in the model's order: all that a method may change."""
    return {
        f"{block.name}.{name}": parameter
        for block in decoder_blocks(model)
        for name, parameter in block.module.named_parameters()
    }


def changeable_modules(model: nn.Module) -> set[str]:
    """Return the full names of the modules that own parameters of the decoder blocks."""
    return {name.rpartition(".")[0] for name in block_parameters(model)}


def known_stages(model_type: str, block: Block) -> list[Stage] | None:
    """Return the stages of a block from :data:`FAMILIES`; None if the family, or a linear of this block, is not there."""
    family = FAMILIES.get(model_type)
    if family is None:
        return None
    named = [[f"{block.name}.{name}" for name in row.linears] for row in family.stages]
    if sorted(name for names in named for name in names) != sorted(block.linears):
        return None
    return [
        _stage(block, [block.linears[name] for name in names], names, row.absorber)
        for names, row in zip(named, family.stages, strict=True)
    ]


def _stage(block: Block, linears: list[nn.Linear], names: list[str], absorber: Absorber | None) -> Stage:
    """Return the stage, with the absorber if it fits: heads that share keys and values have fewer channels."""
    if absorber is not None:
        module = block.module.get_submodule(absorber.module)
        if isinstance(module, nn.Linear) and module.out_features != absorber.parts * linears[0].in_features:
            absorber = None
    return Stage(dict(zip(names, linears, strict=True)), absorber)


def observed_stages(block: Block, run: Callable[[], object]) -> list[Stage]:
    """Return the stages of a block, in the order of computation, as seen while ``run`` passes tokens through it.

    Raises:
        StepError: some linear of the block receives no token.
    """
    names = {id(linear): name for name, linear in block.linears.items()}
    stages: dict[tuple[object, ...], dict[str, nn.Linear]] = {}
    alive: list[torch.Tensor] = []  # a freed tensor's address could be given to another one

    def note(linear: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        name = names.pop(id(linear), None)
        if name is None:  # called before
            return
        value = args[0]
        alive.append(value)
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.numel(), value._version)
        stages.setdefault(key, {})[name] = block.linears[name]

    handles = [linear.register_forward_pre_hook(note) for linear in block.linears.values()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if names:
        raise StepError(
            f"no calibration token reaches {', '.join(f'`{name}`' for name in names.values())}",
            hint="methods without data (magnitude, rtn) can compress this model",
        )
    return [Stage(linears) for linears in stages.values()]


def _block(index: int, name: str, module: nn.Module) -> Block:
    inside = module.named_modules(prefix=name)
    return Block(index, name, module, {full: part for full, part in inside if isinstance(part, nn.Linear)})

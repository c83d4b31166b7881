"""Where the decoder blocks of a model are, which linears of a block share an input, and what can absorb a scale.

The blocks of a model are the module list that holds the most weights in linears. Linears that share an input are a linear group.
:data:`FAMILIES` lists those of the common families; in other models hooks find the linears that receive the same tensor while a
block runs (:func:`observed_linear_groups`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from studyctl.errors import StepError


@dataclass(frozen=True)
class Absorber:
    """A module before a linear group that can absorb a scale of the group's input channels.

    A norm absorbs it in its weight (and bias), a linear in its last ``in`` rows, ``in`` being the group's inputs. The
    latter is exact only if it has ``parts · in`` rows, which it has not if heads share keys and values.
    """

    module: str
    parts: int = 1
    """How many tensors of ``in`` channels the linear computes at once; the group's input comes from the last."""
    adds_one: bool = False
    """Whether the norm multiplies by ``1 + weight``."""


@dataclass(frozen=True)
class LinearNames:
    """The linears of a linear group by their names within the block."""

    linears: tuple[str, ...]
    absorber: Absorber | None


def _attention_and_mlp(attention_norm: Absorber | None, mlp_norm: Absorber | None) -> tuple[LinearNames, ...]:
    """Return the linear groups of blocks that have separate projections and a gated MLP."""
    return (
        LinearNames(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), attention_norm),
        LinearNames(("self_attn.o_proj",), Absorber("self_attn.v_proj")),
        LinearNames(("mlp.gate_proj", "mlp.up_proj"), mlp_norm),
        LinearNames(("mlp.down_proj",), Absorber("mlp.up_proj")),
    )


_LLAMA = _attention_and_mlp(Absorber("input_layernorm"), Absorber("post_attention_layernorm"))
_GEMMA = _attention_and_mlp(
    Absorber("input_layernorm", adds_one=True), Absorber("pre_feedforward_layernorm", adds_one=True)
)
_PHI3 = (
    LinearNames(("self_attn.qkv_proj",), Absorber("input_layernorm")),
    LinearNames(("self_attn.o_proj",), Absorber("self_attn.qkv_proj", parts=3)),
    LinearNames(("mlp.gate_up_proj",), Absorber("post_attention_layernorm")),
    LinearNames(("mlp.down_proj",), Absorber("mlp.gate_up_proj", parts=2)),
)

FAMILIES: dict[str, tuple[LinearNames, ...]] = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": _attention_and_mlp(None, None),  # norms come after attention and MLP, not before
    "phi3": _PHI3,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""The linear groups of a block, by ``model_type`` of the config."""


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
class LinearModules:
    """The modules of a linear group: linears of a block that receive the same input."""

    linears: dict[str, nn.Linear]
    """By full name."""
    absorber: Absorber | None = None
    """What can absorb a scale of their inputs exactly; None: nothing."""


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
            # The list of blocks comes before lists within blocks, which never hold more.
            if weights > most:
                best_name, best, most = name, module, weights
    if best is None:
        raise StepError(
            f"no decoder blocks with linear layers found in `{type(model).__name__}`",
            hint="models whose blocks hold no torch.nn.Linear cannot be compressed",
        )
    blocks = []
    for index, module in enumerate(best):
        name = f"{best_name}.{index}"
        parts = module.named_modules(prefix=name)
        linears = {full: part for full, part in parts if isinstance(part, nn.Linear)}
        blocks.append(Block(index, name, module, linears))
    return blocks


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every linear of the decoder blocks by full name, in the model's order."""
    return {name: linear for block in decoder_blocks(model) for name, linear in block.linears.items()}


def block_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter of the decoder blocks by full name, in the model's order: those that a method may change."""
    return {
        f"{block.name}.{name}": parameter
        for block in decoder_blocks(model)
        for name, parameter in block.module.named_parameters()
    }


def changeable_modules(model: nn.Module) -> set[str]:
    """Return the full names of the modules that own parameters of the decoder blocks."""
    return {name.rpartition(".")[0] for name in block_parameters(model)}


def known_linear_groups(model_type: str, block: Block) -> list[LinearModules] | None:
    """Return the linear groups of a block from :data:`FAMILIES`; None if it does not list the family, or not these linears."""
    rows = FAMILIES.get(model_type, ())
    named = [[f"{block.name}.{name}" for name in row.linears] for row in rows]
    if sorted(name for names in named for name in names) != sorted(block.linears):
        return None
    linear_groups = []
    for names, row in zip(named, rows, strict=True):
        linears = {name: block.linears[name] for name in names}
        absorber = row.absorber
        if absorber is not None:
            module = block.module.get_submodule(absorber.module)
            rows_needed = absorber.parts * linears[names[0]].in_features
            # Heads that share keys and values have fewer channels.
            if isinstance(module, nn.Linear) and module.out_features != rows_needed:
                absorber = None
        linear_groups.append(LinearModules(linears, absorber))
    return linear_groups


def observed_linear_groups(block: Block, run: Callable[[], object]) -> list[LinearModules]:
    """Return the linear groups of a block, in the order of computation, as seen while ``run`` passes tokens through it.

    Raises:
        StepError: some linear of the block receives no token.
    """
    names = {id(linear): name for name, linear in block.linears.items()}
    by_input: dict[tuple[object, ...], dict[str, nn.Linear]] = {}
    alive: list[torch.Tensor] = []  # so that no address is reused for another tensor

    def note(linear: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        name = names.pop(id(linear), None)
        if name is None:  # called before
            return
        value = args[0]
        alive.append(value)
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.numel(), value._version)
        by_input.setdefault(key, {})[name] = block.linears[name]

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
    return [LinearModules(linears) for linears in by_input.values()]

"""Where the decoder blocks of a model are, which linears of a block share an input, and what can absorb a scale.

A linear is a matrix that multiplies hidden states: a ``torch.nn.Linear``, GPT-2's ``Conv1D``, or an expert's part of a 3-D parameter,
as transformers keeps mixtures of experts. Routers, which choose the experts, are left dense.

The blocks of a model are the module list that holds the most weights in linears. Linears that share an input are a linear group.
:data:`FAMILIES` lists those of the common families; in other models :func:`observed_linear_groups` sees which linears multiply the
same tensor while a block runs.
"""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from studyctl.compress.walk.products import Products, place_of
from studyctl.contract.limits import LEFT_DENSE
from studyctl.errors import StepError

EXPERTS = {
    "InklingSharedExperts": False,
    "JetMoeParallelExperts": False,
    "Llama4TextExperts": True,
    "LongcatFlashExperts": False,
}
"""Modules of experts that do not say themselves, by ``is_transposed``, whether their 3-D parameters are ``[experts, in, out]``."""
_EXPERT = re.compile(r"(.*(?:experts|_linear))\.(\d+)\.(.+)")
_ROUTER = re.compile(r"(?:^|[._])(?:gate|router)(?:\.|$)")


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


class Matrix:
    """A linear that is no ``torch.nn.Linear``: all of a parameter, or an expert's part of it."""

    def __init__(self, parameter: nn.Parameter, *, transposed: bool, expert: int | None = None) -> None:
        """Describe a matrix.

        Args:
            parameter: ``[out, in]``, with an ``expert`` ``[experts, out, in]``.
            transposed: whether it is ``[in, out]`` instead.
            expert: which one, for a parameter of several.
        """
        self._parameter = parameter
        self._transposed = transposed
        self._expert = expert
        self.out_features, self.in_features = self.weight.shape

    @property
    def weight(self) -> torch.Tensor:
        """Return the weight ``[out, in]``: a view of the parameter, to be read and written."""
        weight = self._parameter if self._expert is None else self._parameter[self._expert]
        return weight.T if self._transposed else weight


Linear = nn.Linear | Matrix
"""Both have ``weight`` ``[out, in]``, ``in_features`` and ``out_features``."""


@dataclass(frozen=True)
class Block:
    """A decoder block."""

    index: int
    name: str
    """Such as ``model.layers.0``."""
    module: nn.Module
    linears: dict[str, Linear]
    """By full name, in the order in which the model holds them; an expert's is ``model.layers.0.mlp.experts.3.down_proj``."""

    def as_dense(self) -> "Block":
        """Return a copy that later changes of this block do not reach."""
        module = deepcopy(self.module)
        return Block(self.index, self.name, module, _linears(self.name, module))


@dataclass(frozen=True)
class LinearModules:
    """A linear group: linears of a block that receive the same input."""

    linears: dict[str, Linear]
    """By full name."""
    absorber: Absorber | None = None
    """What can absorb a scale of their inputs exactly; None: nothing."""
    experts: tuple[str, ...] = ()
    """For an expert's linears: their names with ``*`` in place of its number. Groups that differ only in the expert are measured in
    one pass, and some may receive no token."""


def decoder_blocks(model: nn.Module) -> list[Block]:
    """Return the decoder blocks of a model, in order.

    Raises:
        StepError: no module list of this model holds linears.
    """
    best_name, best, most = "", None, 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            weights = sum(linear.weight.numel() for linear in _linears(name, module).values())
            # The list of blocks comes before lists within blocks, which never hold more.
            if weights > most:
                best_name, best, most = name, module, weights
    if best is None:
        raise StepError(
            f"no decoder blocks with linear layers found in `{type(model).__name__}`",
            hint="models whose blocks hold no linears that studyctl can find cannot be compressed",
        )
    blocks = []
    for index, module in enumerate(best):
        name = f"{best_name}.{index}"
        blocks.append(Block(index, name, module, _linears(name, module)))
    return blocks


def _linears(name: str, module: nn.Module) -> dict[str, Linear]:
    """Return all linears within a module by full name, without routers."""
    parts = dict(module.named_modules(prefix=name))
    # Whatever lies beside experts and is called gate or router says which experts a token goes to, or how much they count.
    mixtures = {full.rpartition(".")[0] for full, part in parts.items() if _is_experts(full, part)}
    linears: dict[str, Linear] = {}
    for full, part in parts.items():
        if isinstance(part, nn.Linear):
            if not any(_ROUTER.search(full.removeprefix(f"{owner}.")) for owner in _owners(full) & mixtures):
                linears[full] = part
        elif isinstance(part, Conv1D):
            linears[full] = Matrix(part.weight, transposed=True)
        elif (transposed := _is_transposed(part)) is not None:
            for attribute, parameter in part.named_parameters(recurse=False):
                for expert in range(len(parameter)) if parameter.dim() == 3 else ():
                    linears[f"{full}.{expert}.{attribute}"] = Matrix(
                        parameter, transposed=transposed, expert=expert
                    )
    return linears


def _is_experts(name: str, module: nn.Module) -> bool:
    is_list = isinstance(module, nn.ModuleList) and name.endswith(".experts")
    return is_list or _is_transposed(module) is not None


def _is_transposed(module: nn.Module) -> bool | None:
    """Return whether a module of experts keeps its matrices ``[in, out]``; None for any other module."""
    is_transposed: bool | None = getattr(module, "is_transposed", EXPERTS.get(type(module).__name__))
    return is_transposed


def _owners(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def block_linears(model: nn.Module) -> dict[str, Linear]:
    """Return every linear of the decoder blocks by full name, in the model's order."""
    return {name: linear for block in decoder_blocks(model) for name, linear in block.linears.items()}


def block_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter of the decoder blocks by full name, in the model's order: those that a method may change."""
    return {
        f"{block.name}.{name}": parameter
        for block in decoder_blocks(model)
        for name, parameter in block.module.named_parameters()
    }


def block_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what counts as weights of the decoder blocks, by full name: parameters of two or more dimensions, without biases."""
    return {
        name: parameter
        for name, parameter in block_parameters(model).items()
        if parameter.dim() > 1 and not name.endswith("bias")
    }


def check_linears_hold_most(model: nn.Module) -> None:
    """Refuse a model of which a good part would stay dense.

    Raises:
        StepError: names the parameters of the decoder blocks that no method can compress.
    """
    walked = {place_of(linear.weight)[0] for linear in block_linears(model).values()}
    matrices = block_matrices(model)
    dense = {
        name: parameter.numel()
        for name, parameter in matrices.items()
        if place_of(parameter)[0] not in walked
    }
    share = sum(dense.values()) / sum(parameter.numel() for parameter in matrices.values())
    if share > LEFT_DENSE:
        largest = sorted(dense, key=lambda name: -dense[name])[:4]
        raise StepError(
            f"{share:.0%} of the weights of the blocks are in no linear that can be compressed: "
            + ", ".join(f"`{name}`" for name in largest),
            hint="a model of this architecture can only be measured, not compressed",
        )


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

    What is seen of one expert holds for all of them, since few tokens do not reach every one.

    Raises:
        StepError: some linear of the block receives no token.
    """
    missing = dict.fromkeys(_each_expert(name) for name in block.linears)
    first: dict[str, str] = {}  # of each module of experts, the expert that tokens reached first
    by_input: dict[tuple[object, ...], list[str]] = {}
    alive: list[torch.Tensor] = []  # so that no address is reused for another tensor

    def note(name: str, value: torch.Tensor) -> None:
        expert = _EXPERT.fullmatch(name)
        if value.numel() == 0 or (expert and first.setdefault(expert[1], expert[2]) != expert[2]):
            return
        name = _each_expert(name)
        if name not in missing:  # called before
            return
        del missing[name]
        alive.append(value)
        key = (*place_of(value), value._version)
        by_input.setdefault(key, []).append(name)

    with Products(block.linears, note):
        run()
    if missing:
        raise StepError(
            f"no calibration token reaches {', '.join(f'`{name}`' for name in missing)}",
            hint="methods without data (magnitude, rtn) can compress this model",
        )
    return [linears for names in by_input.values() for linears in _with_experts(block, names)]


def _each_expert(name: str) -> str:
    """Return the name of a linear with ``*`` in place of an expert's number."""
    return _EXPERT.sub(r"\1.*.\3", name)


def _with_experts(block: Block, names: list[str]) -> Iterator[LinearModules]:
    """Yield the linear group of these names; for those of experts, the group of each expert."""
    plain = [name for name in names if "*" not in name]
    if plain:
        yield LinearModules({name: block.linears[name] for name in plain})
    every = [name for name in names if "*" in name]
    of_expert: dict[int, dict[str, Linear]] = {}
    for name, linear in block.linears.items():
        if _each_expert(name) in every and (expert := _EXPERT.fullmatch(name)):
            of_expert.setdefault(int(expert[2]), {})[name] = linear
    for linears in of_expert.values():
        yield LinearModules(linears, experts=tuple(every))


def multiply_experts_in_turn(model: nn.Module) -> None:
    """Let experts multiply one after the other from now on: transformers' other ways show no expert's own input."""
    for part in model.modules():
        if hasattr(part, "is_transposed"):
            config: Any = part.config
            config._experts_implementation = "eager"

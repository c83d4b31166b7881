"""What compressing a model takes, from the sizes of its linears: bytes and operations of ``studyctl.compress``.

The terms are those of the walker and the methods: what a walk holds throughout, what it holds of a block, and what it
needs for a stage (linears that share an input) on top of that. Needs no torch.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.limits import HEAP_TENSOR_BYTES
from studyctl.contract.methods import (
    AWQ,
    MethodSettings,
    PruneThenQuantize,
    Quantization,
    WithData,
    statistics_of,
)

FLOAT = 4
"""Bytes of a number in which statistics are taken and weights are solved for."""
LIBRARY_BYTES = 40 << 20
"""What the libraries of matrix products take when they are first used."""
KERNEL_BYTES = 100 << 20
"""What numba, the compiled kernels and the factorisations bring with them."""
ELEMENTWISE_COPIES = 3
"""fp32 tensors as large as a linear that exist at once while its weights are scored, or as large as the rows that are rounded at once.
Magnitudes that tie widely, of weights that were on a grid before, take twice as much: that is not reckoned with."""
CLIP_STEPS = 10
"""Limits that AWQ tries for every group of weights."""
CANDIDATE_OPERATIONS = 500.0
"""Products that take as long as rounding one weight for a candidate scale or limit."""
SWEEP_OPERATIONS = 3000.0
"""Products that take as long as pruning or rounding one weight of a sweep, and passing its error on within its block of columns."""
SOLVE_EFFICIENCY = 0.6
"""Share of the rate of matrix products that factorisations, and passing errors on to later blocks, reach."""

_SHARE_AN_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
_BEHIND_A_NORM = {"q_proj", "qkv_proj", "gate_proj", "gate_up_proj"}
_BEHIND_VALUES = "o_proj"
_BEHIND_THE_MLP = "down_proj"


@dataclass(frozen=True, slots=True)
class StageSize:
    """Linears of a block that share an input."""

    inputs: int
    outputs: int
    """Of all linears."""
    absorber: Literal["norm", "linear", "none"]
    """What is before it and takes over the scale that AWQ searches for its inputs."""

    @property
    def weights(self) -> int:
        """Return the weights of all linears."""
        return self.inputs * self.outputs

    @property
    def hessian_bytes(self) -> int:
        """Return the size of H ``[in, in]``."""
        return FLOAT * self.inputs**2


Block = tuple[StageSize, ...]


def blocks_of(identity: ModelIdentity) -> Mapping[Block, int]:
    """Return the stages of a decoder block, for every kind of block, and how many blocks are of that kind."""
    return _blocks_of(tuple(identity.linears.items()), identity.kv_heads == identity.heads)


@lru_cache(maxsize=64)  # all trials of a model ask
def _blocks_of(
    linears: tuple[tuple[str, tuple[int, int]], ...], every_head_has_values: bool
) -> Mapping[Block, int]:
    blocks: dict[str, dict[frozenset[str], list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for name, size in linears:
        block = re.match(r"(?:.*?\.)?\d+(?=\.)", name)
        last = name.rpartition(".")[2]
        together = next((names for names in _SHARE_AN_INPUT if last in names), {last})
        blocks[block[0] if block else ""][frozenset(together)].append(size)
    return Counter(
        tuple(
            StageSize(sizes[0][1], sum(out for out, _ in sizes), _absorber(names, every_head_has_values))
            for names, sizes in block.items()
        )
        for block in blocks.values()
    )


def _absorber(names: frozenset[str], every_head_has_values: bool) -> Literal["norm", "linear", "none"]:
    if _BEHIND_VALUES in names:  # values that several heads share cannot take a scale
        return "linear" if every_head_has_values else "none"
    if _BEHIND_THE_MLP in names:
        return "linear"
    return "none" if _BEHIND_A_NORM.isdisjoint(names) else "norm"


def _parts(settings: MethodSettings) -> set[str]:
    return {settings.method} if isinstance(settings.method, str) else set(settings.method)


def _sweeps(settings: MethodSettings) -> bool:
    return not {"sparsegpt", "gptq"}.isdisjoint(_parts(settings))


# -- memory


def _kernel_bytes(settings: MethodSettings) -> int:
    return 0 if _parts(settings).isdisjoint({"sparsegpt", "gptq", "awq"}) else KERNEL_BYTES


def compressing_bytes(
    identity: ModelIdentity,
    settings: MethodSettings,
    windows: CalibrationData | None,
    *,
    width: int,
    batch_tokens: int,
) -> int:
    """Return the most that compressing holds beside the model's weights: in the walk, or when the codes of all linears are stored.

    Args:
        identity: of the model.
        settings: of the method.
        windows: the calibration; None for methods without data.
        width: bytes of a number in the model's dtype.
        batch_tokens: tokens that pass through a block at once; at least one window does.
    """
    if not identity.linears:
        return 0
    walking = _walking_bytes(identity, settings, windows, width=width, batch_tokens=batch_tokens)
    return LIBRARY_BYTES + max(walking, _storing_bytes(identity, settings, width))


def _widest(identity: ModelIdentity) -> int:
    return max(out * inputs for out, inputs in identity.linears.values())


def _elementwise(widest: int, settings: MethodSettings) -> int:
    """Return bytes of scoring the weights of the widest linear, or of rounding some of its rows."""
    only_rounds = _parts(settings) <= {"rtn", "awq"}
    return ELEMENTWISE_COPIES * FLOAT * (min(1 << 19, widest) if only_rounds else widest)


def _storing_bytes(identity: ModelIdentity, settings: MethodSettings, width: int) -> int:
    """Return bytes of all codes, scales and zeros, and of giving the codes of a linear back; weights themselves are not copied."""
    grids = _grid_bytes(identity, settings, width, _stored_code_bits(settings))
    # Codes of a linear as they come back, one to a byte, and half of them once more while they are put two to a byte.
    return grids and grids + 3 * _widest(identity) // 2 + _kernel_bytes(settings)


def _walking_bytes(
    identity: ModelIdentity,
    settings: MethodSettings,
    windows: CalibrationData | None,
    *,
    width: int,
    batch_tokens: int,
) -> int:
    widest = _widest(identity)
    elementwise = _elementwise(widest, settings)
    throughout = _grid_bytes(identity, settings, width, _held_code_bits(settings, width))
    if windows is None or not isinstance(settings, WithData):
        return throughout + elementwise + width * widest
    blocks = blocks_of(identity)
    tokens = windows.samples * windows.sequence_length
    hidden = tokens * identity.hidden_size * width
    throughout += hidden * (2 if settings.propagate == "dense" else 1)
    throughout += _kernel_bytes(settings)
    if settings.order == "stage":
        throughout += _kept_inputs(identity, settings, blocks, tokens * width, hidden)
    batch = min(max(batch_tokens, windows.sequence_length), tokens)
    passing = _passing(identity, batch, width) + _counting(blocks, settings, windows, batch)
    passing += _attention_gradients(identity, settings, batch, width)
    # Of what a pass took the small parts are given back to the heap, not to the system: they are still there when the stages
    # are solved. (A GPU's allocator keeps all of it, and gives it to whoever asks next.)
    spare = sum(size for size in passing if size < HEAP_TENSOR_BYTES)
    return throughout + max(
        _held_bytes(stages, settings, windows, width)
        + max(
            sum(passing) + _objective_bytes(stages, settings, hidden, width),
            spare + _solving_bytes(stages, settings, elementwise, width),
        )
        for stages in blocks
    )


def _kept_inputs(
    identity: ModelIdentity, settings: WithData, blocks: Collection[Block], each: int, hidden: int
) -> int:
    """Return bytes of what is kept of the inputs of last linears, or made of them: ``studyctl.compress.walk.replay``.

    Args:
        identity: of the model.
        settings: of the method, with ``order = "stage"``.
        blocks: every kind of block.
        each: bytes that an input takes for all tokens.
        hidden: bytes of a block's inputs for all tokens.
    """
    attention = max([each * stages[1].inputs for stages in blocks if len(stages) > 1], default=0)
    keeps_mlp = settings.propagate == "compressed"
    mlp = each * max(stages[-1].inputs for stages in blocks) if keeps_mlp else 0
    return max(hidden, attention) + min(48 << 20, mlp)


def passing_bytes(identity: ModelIdentity, tokens: int, width: int) -> int:
    """Return bytes of what a forward pass of a block has at once: residual, attention, three of the MLP."""
    return sum(_passing(identity, tokens, width))


def _passing(identity: ModelIdentity, tokens: int, width: int) -> list[int]:
    return [tokens * size * width for size in [identity.hidden_size] * 6 + [identity.intermediate_size] * 3]


def _attention_gradients(identity: ModelIdentity, settings: WithData, tokens: int, width: int) -> list[int]:
    """Return bytes of queries, keys and values as AWQ asks for their gradients: each as made, as passed on, and its gradient."""
    if not _weighs_tokens(settings):
        return []
    return 9 * [tokens * identity.hidden_size * width]


def _weighs_tokens(settings: WithData) -> bool:
    """Return whether AWQ counts attention's tokens by what they do: ``studyctl.compress.quantize.token_weights``."""
    return "awq" in _parts(settings) and getattr(settings, "objective", "") == "linear"


def stored_bytes(identity: ModelIdentity, settings: MethodSettings, width: int) -> int:
    """Return the size of the linears as a trial in progress stores them: codes where there are some, else weights."""
    weights = sum(out * inputs for out, inputs in identity.linears.values())
    return _grid_bytes(identity, settings, width, _stored_code_bits(settings)) or weights * width


def _grid_bytes(identity: ModelIdentity, settings: MethodSettings, width: int, code_bits: int) -> int:
    """Return bytes of the codes, scales and zeros of all linears."""
    if not isinstance(settings, Quantization):
        return 0
    return sum(
        out * inputs * code_bits // 8 + out * inputs // (settings.group_size or inputs) * (width + 1)
        for out, inputs in identity.linears.values()
    )


def _held_code_bits(settings: MethodSettings, width: int) -> int:
    """Return what a code takes until the last block is done: nothing where weights give it back, which bfloat16's do not at 8 bits."""
    return 8 if isinstance(settings, Quantization) and settings.bits == 8 and width == 2 else 0


def _stored_code_bits(settings: MethodSettings) -> int:
    return 4 if isinstance(settings, Quantization) and settings.bits <= 4 else 8


def _counting(
    blocks: Iterable[Block], settings: MethodSettings, windows: CalibrationData, batch: int
) -> list[int]:
    """Return bytes of a stage's input in fp32, as it is and as it is added up."""
    inputs = max(stage.inputs for stages in blocks for stage in stages)
    tokens = batch if "mean_abs" in statistics_of(settings) else windows.sequence_length
    return 2 * [FLOAT * tokens * inputs]


def _held_bytes(stages: Block, settings: WithData, windows: CalibrationData, width: int) -> int:
    """Return bytes that are held of a block while its stages are measured and compressed."""
    tokens = windows.samples * windows.sequence_length
    kept = -(-tokens // max(1, tokens // 256))
    held = sum(kept * stage.inputs * width for stage in stages)
    if "hessian" in statistics_of(settings):
        hessians = sorted((stage.hessian_bytes for stage in stages), reverse=True)
        # With order = "stage" those of the stage before are there until the next ones are complete.
        held += sum(hessians if settings.order == "block" else hessians[:2])
    weights = sum(stage.weights for stage in stages)
    if isinstance(settings, PruneThenQuantize):
        held += width * weights
    return held


def _objective_bytes(stages: Block, settings: WithData, hidden: int, width: int) -> int:
    """Return bytes beside a pass where AWQ judges a scale by what a module makes of it.

    The inputs and outputs of the module, and the weights of a stage as they would be, in fp32 and in the model's dtype.
    """
    if "awq" not in _parts(settings) or getattr(settings, "objective", "") != "block":
        return 0
    return 2 * hidden + (FLOAT + width) * max(stage.weights for stage in stages)


def _solving_bytes(stages: Block, settings: WithData, elementwise: int, width: int) -> int:
    """Return bytes of compressing the stage that needs most; its results come on top of what made them."""
    results = width * max(stage.weights for stage in stages)
    needs = [] if settings.method in ("sparsegpt", "gptq") else [elementwise + results]
    if _sweeps(settings):
        # The root of the inverse, and the weights; with an order of its own H, weights and codes in that order as well. The last
        # resort, a factorisation in fp64, is not reckoned with.
        orders = 2 if getattr(settings, "act_order", False) else 1
        each = orders * FLOAT + (orders - 1) + width
        needs += [orders * stage.hessian_bytes + each * stage.weights for stage in stages]
    if "awq" in _parts(settings):
        copies = 2 if isinstance(settings, PruneThenQuantize) else 1
        of_values = stages[0].hessian_bytes if _weighs_tokens(settings) else 0
        needs.append(
            elementwise + results + copies * FLOAT * sum(stage.weights for stage in stages) + of_values
        )
    return max(needs)


# -- time


def forward_passes(settings: MethodSettings) -> float:
    """Return how often all calibration tokens pass through a block."""
    if not isinstance(settings, WithData):
        return 0.0
    if settings.order == "stage":
        # Attention once, the MLP's first linears twice; for dense outputs a whole pass before.
        return 1.5 if settings.propagate == "compressed" else 2.0
    # The first pass ends before the last linear of the MLP.
    return 1.75 if settings.propagate == "compressed" else 1.0


def solving_work(identity: ModelIdentity, settings: MethodSettings, windows: CalibrationData | None) -> float:
    """Return operations of statistics, searches and sweeps: in fp32, at the rate of matrix products."""
    if windows is None or not isinstance(settings, WithData):
        return 0.0
    tokens = windows.samples * windows.sequence_length
    return sum(
        count * _stage_work(stage, stages, settings, tokens)
        for stages, count in blocks_of(identity).items()
        for stage in stages
    )


def _stage_work(stage: StageSize, stages: Block, settings: WithData, tokens: int) -> float:
    inputs, weights, parts = stage.inputs, stage.weights, _parts(settings)
    work = 0.0
    if "hessian" in statistics_of(settings):
        work += tokens * inputs * (inputs + 192)  # one triangle
    sweeps = len(parts & {"sparsegpt", "gptq"})
    # A factorisation and the inverse of a triangle; then every column changes all that follow.
    work += sweeps * ((inputs**3 + weights * inputs) / SOLVE_EFFICIENCY + SWEEP_OPERATIONS * weights)
    quantization = settings.quantization if isinstance(settings, PruneThenQuantize) else settings
    if isinstance(quantization, AWQ):
        candidate = (2 * inputs + CANDIDATE_OPERATIONS) * weights
        if quantization.objective == "block" and stage.absorber == "norm":
            candidate = tokens * sum(other.weights for other in stages)  # attention or MLP: half of the block
        tried = min(
            quantization.ratios, (quantization.ratios + 1) // 2 + 2
        )  # every other one, and two beside the best
        work += tried * candidate if stage.absorber != "none" else 0.0
        group = quantization.group_size or inputs
        work += CLIP_STEPS * (2 * group + CANDIDATE_OPERATIONS) * weights if quantization.clip else 0.0
    return work

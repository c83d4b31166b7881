"""Inputs with correlated channels, linear groups made of them, and errors in fp64, for tests of single methods."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import settings

from studyctl.compress.quantize.grid import dequantize
from studyctl.compress.walk.activations import record_activations
from studyctl.compress.walk.architectures import decoder_blocks, known_linear_groups
from studyctl.compress.walk.statistics import Accumulator, Statistics
from studyctl.compress.weights.compressed import BlockInput, CompressedLinear, LinearGroup
from studyctl.contract.gguf import BlockType
from studyctl.reporter import Reporter, SilentReporter

quick: Callable[[Any], Any] = settings(max_examples=25)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """Return ``[tokens, inputs]``: channels of very different sizes that depend on each other."""
    mixed = random(tokens, inputs, seed=seed) @ (
        torch.eye(inputs) + 2 * random(inputs, inputs, seed=seed + 1) / inputs**0.5
    )
    return mixed * random(inputs, seed=seed + 2).exp()


def statistics(x: torch.Tensor) -> Statistics:
    """Return the statistics of the tokens ``[tokens, in]`` of one sample."""
    accumulator = Accumulator(frozenset({"norm", "mean_abs", "hessian"}), len(x))
    accumulator.add(x)
    return accumulator.finish()


def with_hessian(hessian: torch.Tensor) -> Statistics:
    """Return statistics of inputs of which only H is known."""
    return Statistics(1, torch.zeros(1, len(hessian)), None, None, hessian)


def linear_group(
    *weights: torch.Tensor,
    seen: Statistics,
    reporter: Reporter | None = None,
    kinds: tuple[BlockType, ...] = (),
) -> LinearGroup:
    names = tuple(f"linear.{index}" for index in range(len(weights)))
    return LinearGroup(
        names,
        weights,
        seen,
        dtype=weights[0].dtype,
        kinds=kinds,
        reporter=reporter if reporter else SilentReporter(),
    )


def output_error(dense: torch.Tensor, compressed: torch.Tensor, x: torch.Tensor) -> float:
    """Return the mean over tokens of the squared change of the output, in fp64."""
    change = x.double() @ (dense.double() - compressed.double()).T
    return change.square().sum(1).mean().item()


def damped(x: torch.Tensor, damping: float) -> torch.Tensor:
    """Return ``H + λI`` of the tokens of one sample in fp64, by the definition."""
    hessian = 2 * x.double().T @ x.double()
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def root_of_inverse(hessian: torch.Tensor) -> torch.Tensor:
    """Return U as the papers' code makes it: invert, then factor the inverse."""
    root: torch.Tensor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    return root


def on_its_grid(result: CompressedLinear, bits: int) -> bool:
    """Whether codes, scales, zeros and groups are a grid of this many bits and give the weight bit for bit."""
    assert result.scales is not None
    assert result.zero_point is not None
    codes = result.all_codes()
    in_range = int(codes.max()) < 2**bits and int(result.zero_point.max()) < 2**bits
    weight = dequantize(codes, result.scales, result.zero_point, result.groups)
    return in_range and weight.dtype == result.weight.dtype and torch.equal(weight, result.weight)


def assert_equal_but_for_ties(codes: torch.Tensor, expected: torch.Tensor, positions: torch.Tensor) -> None:
    """Compare codes of the same sweep in two precisions: rows may part only where a value is halfway between codes.

    Args:
        codes: ``[rows, steps]``, in the order of the sweep.
        expected: the same from the other one.
        positions: where on the grid that one saw each value before it rounded it.
    """
    differs = codes.long() != expected.long()
    rows = differs.any(1)
    assert rows.double().mean() < 0.1, f"{int(rows.sum())} of {len(rows)} rows differ"
    first = differs.long().argmax(1)
    from_tie = (positions[rows, first[rows]].remainder(1) - 0.5).abs()
    assert (from_tie < 1e-3).all(), f"not a tie: {from_tie.max().item()}"


def block_input(
    model: Any, family: str, ids: torch.Tensor, *, index: int = 0, reporter: Reporter | None = None
) -> BlockInput:
    """Return what the walker shows a method of a block of the dense model."""
    reporter = reporter or SilentReporter()
    blocks = decoder_blocks(model)
    activations = record_activations(model, blocks, ids, batch_tokens=48, device=torch.device("cpu"))
    for block in blocks[:index]:
        activations.advance(block, reporter)
    block = blocks[index]
    linear_groups = known_linear_groups(family, block)
    assert linear_groups is not None
    accumulators = [
        Accumulator(frozenset({"norm", "mean_abs", "hessian"}), activations.tokens) for _ in linear_groups
    ]
    handles = [
        next(iter(one.linears.values())).register_forward_pre_hook(
            lambda _, args, accumulator=accumulator: accumulator.add(args[0])
        )
        for one, accumulator in zip(linear_groups, accumulators, strict=True)
    ]
    for chunk in range(len(activations.hidden)):
        activations.forward(block, chunk)
    for handle in handles:
        handle.remove()
    inputs = []
    for one, accumulator in zip(linear_groups, accumulators, strict=True):
        weights = tuple(linear.weight.data for linear in one.linears.values())
        inputs.append(
            LinearGroup(
                tuple(one.linears),
                weights,
                accumulator.finish(),
                weights[0].dtype,
                one.absorber,
                reporter=reporter,
            )
        )
    return BlockInput(block, tuple(inputs), activations, reporter)

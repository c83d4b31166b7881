"""AWQ: scales input channels up before rounding, by how active they are, then clips weight ranges (Lin et al. 2024).

``Q(W · s) / s`` has a smaller error than ``Q(W)`` if the channels that matter get a larger share of the grid: ``s = x̄^α`` with the
α of the smallest output error. The scale is folded into what precedes the linears. Then every group of weights may be clipped
for a finer grid.

With ``objective = "linear"`` the loss of a candidate is ``‖Q(W · s) (X / s) − W X‖²``, as in the paper (equation 4). It takes no
forward pass: the squared output error of a linear whose weights change by D is ``tr(D H Dᵀ) / 2`` with ``H = 2/n · X Xᵀ``, and
that of a group of its inputs follows likewise from the group's part of H. With ``objective = "block"`` the whole attention or
MLP is run for every candidate, as in the paper's code.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from studyctl.compress.quantize.folding import can_fold, fits, fold
from studyctl.compress.quantize.grid import row_parts
from studyctl.compress.quantize.module_objective import module_losses
from studyctl.compress.quantize.rtn import round_to_nearest
from studyctl.compress.quantize.trial_rounding import change
from studyctl.compress.walk.architectures import Absorber, Block
from studyctl.compress.walk.statistics import Statistics
from studyctl.compress.weights.compressed import (
    BlockInput,
    CompressedLinear,
    LinearGroup,
    PreparedBlock,
    stacked,
)
from studyctl.contract.methods import AWQ, Quantization

CLIP_STEPS = 20
"""Limits are tried in steps of a twentieth of the largest weight: ten of them, down to 0.55 of it."""
LARGEST_SCALE = 1e4
"""Scales are between this and its inverse."""
QUADRATIC_TILE = 256
"""Columns of H that are multiplied at once; smaller tiles skip more of H but multiply more slowly."""


def scale_block(block: BlockInput, settings: AWQ) -> PreparedBlock:
    """Scale the linears of a block and fold the scales into what precedes them.

    All scales are chosen by the block's own weights, whatever was folded into them before. Copies of them become fp32, so that
    nothing is rounded before it is quantized.
    """
    if block.block.index == 0:  # blocks are alike: one warning is enough
        _warn_of_groups_without_absorber(block)
    weights = _as_float(block, [linears.weights for linears in block.linear_groups])
    dense = _as_float(block, [linears.dense or () for linears in block.linear_groups])
    copies = [weights, dense] if dense else [weights]
    parameters: dict[str, torch.Tensor] = {}
    scaled = []
    for linears in block.linear_groups:
        statistics = linears.statistics
        if statistics is not None and linears.absorber is not None:
            chosen = _search_scales(block, linears, linears.absorber, settings, weights)
            for values in copies:
                scales = fold(block.block, linears.absorber, chosen, values, parameters)
                for name in linears.names:
                    values[name] *= scales
            statistics = _scaled(statistics, scales)
        scaled.append(
            replace(
                linears,
                weights=tuple(weights[name] for name in linears.names),
                dense=tuple(dense[name] for name in linears.names) if dense else None,
                statistics=statistics,
            )
        )
    return PreparedBlock(tuple(scaled), parameters)


def compress_linears(linears: LinearGroup, settings: AWQ) -> list[CompressedLinear]:
    """Clip and round linears that :func:`scale_block` has prepared."""
    results = []
    for name, weight in zip(linears.names, linears.weights, strict=True):
        limits = None
        if settings.clip and not _makes_queries_or_keys(name):
            limits = clip_limits(weight, linears.hessian, settings, linears.dtype)
        results.append(round_to_nearest(weight, settings, linears.dtype, limits))
    return results


# -- scales


def scales_of(mean_abs: torch.Tensor, ratio: float, weight_mean: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``s = x̄^α``, or with ``weight_mean`` ``s = x̄^α / w̄^(1−α)``, scaled so that ``max(s) · min(s) = 1``.

    A dead input (x̄ = 0) has scale 1 and no part in the others' scales. (The papers' code gives it x̄ = 1e-4 or so, which
    is not little where activations are small.)

    Args:
        mean_abs: x̄, mean |x| of every input channel, ``[in]``.
        ratio: α.
        weight_mean: w̄, see :func:`weight_means`.
    """
    scales = mean_abs.pow(ratio)
    if weight_mean is not None:
        scales = scales / (weight_mean.pow(1 - ratio) + 1e-4)
    live = scales[mean_abs > 0]
    if live.numel() == 0:
        return torch.ones_like(scales)
    scales = (scales / (live.max().sqrt() * live.min().sqrt())).clamp(1 / LARGEST_SCALE, LARGEST_SCALE)
    return torch.where(mean_abs > 0, scales, 1.0)


def weight_means(weights: tuple[torch.Tensor, ...], group_size: int) -> torch.Tensor:
    """Return the mean over rows of |w| as a fraction of its group's largest |w|, ``[in]`` (AutoAWQ's weight term)."""
    magnitudes = stacked(weights).abs_()
    groups = magnitudes.reshape(len(magnitudes), -1, group_size or magnitudes.shape[1])
    largest = groups.amax(-1, keepdim=True)
    return (groups / torch.where(largest > 0, largest, 1.0)).reshape(magnitudes.shape).mean(0)


def _search_scales(
    block: BlockInput,
    linears: LinearGroup,
    absorber: Absorber,
    settings: AWQ,
    folded: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Return the scales, ``[in]``, with the smallest loss: of every second exponent, then of the two next to the best of these.

    The loss changes smoothly with the exponent: others are hardly ever better, and then by fractions of a percent.
    """
    candidates = _candidates(block, linears, absorber, settings, folded)
    losses: dict[int, float] = {}

    def best_with(indices: Iterable[int]) -> int:
        tried = {index: candidates[index] for index in indices if index in candidates}
        if tried:
            measured = _losses(block, linears, absorber, settings, list(tried.values()))
            losses.update(zip(tried, measured, strict=True))
        return min(losses, key=lambda index: (losses[index], index))

    best = best_with(range(0, settings.ratios, 2))
    return candidates[best_with((best - 1, best + 1))]


def _candidates(
    block: BlockInput,
    linears: LinearGroup,
    absorber: Absorber,
    settings: AWQ,
    folded: dict[str, torch.Tensor],
) -> dict[int, torch.Tensor]:
    """Return the scales to choose from, each ``[in]``, by the index of their exponent; 0 is always among them.

    With each of them inputs, weights, and what precedes the linears stay within the model's dtype.

    Args:
        block: the dense block.
        linears: to be scaled.
        absorber: takes over the scale.
        settings: of the method.
        folded: fp32 weights of the block's linears by full name, with the scales of earlier linear groups.
    """
    statistics = linears.statistics
    assert statistics is not None
    assert statistics.mean_abs is not None
    assert statistics.peak is not None
    means = weight_means(linears.weights, settings.group_size) if settings.weight_term else None
    exponents = [index / settings.ratios for index in range(settings.ratios)]
    scales = torch.stack([scales_of(statistics.mean_abs, exponent, means) for exponent in exponents])
    peaks = torch.stack([weight.abs().amax(0) for weight in linears.weights]).amax(0).float()
    possible = can_fold(block.block, absorber, scales, folded, settings.bits)
    possible &= fits(peaks * scales, linears.dtype) & fits(statistics.peak / scales, linears.dtype)
    candidates = {index: scales[index] for index in possible.nonzero().flatten().tolist()}
    candidates.setdefault(0, torch.ones_like(scales[0]))
    return candidates


def _losses(
    block: BlockInput,
    linears: LinearGroup,
    absorber: Absorber,
    settings: AWQ,
    candidates: list[torch.Tensor],
) -> list[float]:
    # A linear group that follows a linear is the last of its module: its output is the module's, and so both objectives agree.
    is_last = isinstance(block.block.module.get_submodule(absorber.module), nn.Linear)
    if settings.objective == "linear" or is_last:
        return linear_losses(linears.weights, linears.hessian, settings, linears.dtype, candidates)
    return module_losses(
        block,
        linears,
        candidates,
        lambda weight, scales: (
            weight + change(_grouped(weight, settings), settings, linears.dtype, scales=scales).flatten(1)
        ),
    )


def linear_losses(
    weights: tuple[torch.Tensor, ...],
    hessian: torch.Tensor,
    settings: Quantization,
    dtype: torch.dtype,
    candidates: list[torch.Tensor],
) -> list[float]:
    """Return the squared output error of the linears for each scale, summed over tokens and outputs, mean over samples.

    Args:
        weights: each ``[out, in]``.
        hessian: H = 2/n · X Xᵀ of their inputs, ``[in, in]``.
        settings: of the grid.
        dtype: in which the grid's scales are stored.
        candidates: scales, each ``[in]``.
    """
    losses = torch.zeros(len(candidates), dtype=torch.float64)
    halves = _half(hessian)
    for weight in weights:
        for part in row_parts(*weight.shape):
            groups = _grouped(weight[part].float(), settings)
            out = torch.empty_like(groups)
            for index, scales in enumerate(candidates):
                changes = change(groups, settings, dtype, scales=scales, out=out)
                losses[index] += _squares(changes.flatten(1), halves) / 2
    return losses.tolist()


def _half(hessian: torch.Tensor) -> list[torch.Tensor]:
    """Return H in tiles of columns, each from its diagonal block on, with what lies below that block doubled."""
    parts = []
    for start in range(0, len(hessian), QUADRATIC_TILE):
        part = hessian[start:, start : start + QUADRATIC_TILE].clone()
        part[part.shape[1] :] *= 2
        parts.append(part)
    return parts


def _squares(changes: torch.Tensor, halves: list[torch.Tensor]) -> float:
    """Return ``tr(D H Dᵀ)`` of changes D ``[rows, in]`` with half the products, from :func:`_half` of the symmetric H."""
    total, start = 0.0, 0
    for half in halves:
        tile = changes[:, start : start + half.shape[1]]
        total += float((changes[:, start:] @ half).mul_(tile).sum())
        start += half.shape[1]
    return total


def _grouped(weight: torch.Tensor, settings: Quantization) -> torch.Tensor:
    """Return a weight ``[rows, in]`` as ``[rows, groups, group]``."""
    return weight.reshape(len(weight), -1, settings.group_size or weight.shape[1])


# -- clipping


def clip_limits(
    weight: torch.Tensor, hessian: torch.Tensor, settings: Quantization, dtype: torch.dtype
) -> torch.Tensor:
    """Return the limit of |w| with the smallest error in the group's part of the output, fp32 ``[out, groups]``; inf: none.

    Ten limits from the group's largest |w| down to 0.55 of it are tried, for each row and group separately.

    Args:
        weight: ``[out, in]``, scaled.
        hessian: H of the scaled inputs, ``[in, in]``: only the groups' diagonal blocks are used.
        settings: of the grid.
        dtype: in which the grid's scales are stored.
    """
    inputs = weight.shape[1]
    size = settings.group_size or inputs
    parts = hessian.reshape(inputs // size, size, inputs // size, size)
    grams = parts.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [groups, group, group]
    blocks = (_grouped(weight[part].float(), settings) for part in row_parts(*weight.shape))
    return torch.cat([_best_limits(groups, grams, settings, dtype) for groups in blocks])


def _best_limits(
    groups: torch.Tensor, grams: torch.Tensor, settings: Quantization, dtype: torch.dtype
) -> torch.Tensor:
    """Return a limit for each of the groups ``[rows, groups, group]``, as ``[rows, groups]``."""
    changes = groups.new_empty(groups.shape[1], len(groups), groups.shape[2])  # a group's rows side by side
    best = groups.new_ones(groups.shape[1], len(groups))
    least = torch.full_like(best, torch.inf)
    for step in range(CLIP_STEPS // 2):
        kept = 1 - step / CLIP_STEPS
        change(groups, settings, dtype, kept_range=kept, out=changes.transpose(0, 1))
        error = (changes @ grams).mul_(changes).sum(-1)
        better = error < least
        best.masked_fill_(better, kept)
        least = torch.minimum(error, least)
    return (groups.abs().amax(-1) * best.T).masked_fill_(best.T == 1, torch.inf)


def _makes_queries_or_keys(name: str) -> bool:
    """Return whether a linear makes queries or keys: clipping would change their products systematically."""
    last = name.rpartition(".")[2]
    return last.startswith(("q_", "k_", "qkv", "Wqkv", "c_attn")) or "query" in last or "key" in last


# -- applying the scales


def _as_float(block: BlockInput, parts: list[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """Return copies in fp32 by full name; empty if there are none."""
    return {
        name: weight.to(torch.float32, copy=True)
        for linears, weights in zip(block.linear_groups, parts, strict=True)
        for name, weight in zip(linears.names, weights, strict=False)
    }


def _scaled(statistics: Statistics, scales: torch.Tensor) -> Statistics:
    """Return the statistics of ``x / s``; the Hessian is changed in place, because it is large."""
    hessian, mean_abs, peak, norm = statistics.hessian, statistics.mean_abs, statistics.peak, statistics.norm
    if hessian is not None:
        hessian.div_(scales).div_(scales[:, None])
    return replace(
        statistics,
        sample=statistics.sample.float() / scales,
        norm=None if norm is None else norm / scales,
        mean_abs=None if mean_abs is None else mean_abs / scales,
        peak=None if peak is None else peak / scales,
    )


def _follows_shared_heads(block: Block, names: tuple[str, ...]) -> bool:
    """Return whether these are an attention's output, and heads share its values: there published AWQ scales nothing either."""
    values = block.linears.get(f"{names[0].removesuffix('o_proj')}v_proj")
    output = block.linears[names[0]]
    return len(names) == 1 and values is not None and values.out_features < output.in_features


def _warn_of_groups_without_absorber(block: BlockInput) -> None:
    without = [
        linears
        for linears in block.linear_groups
        if linears.absorber is None and not _follows_shared_heads(block.block, linears.names)
    ]
    for alike in dict.fromkeys(linears.experts or linears.names for linears in without):
        names = ", ".join(f"`{name.removeprefix(block.block.name + '.')}`" for name in alike)
        block.reporter.warning(
            f"nothing before {names} can take over a scale exactly: there awq only clips ranges, in every block"
        )

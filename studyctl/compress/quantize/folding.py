"""Folding a scale of a linear group's inputs into the module before it, so that the block computes the same function.

If the inputs of linears become ``x / s``, their weights must become ``W · s``. A norm divides its weight and bias by s; a
linear divides the rows that make x, and their biases. If a norm's weight is rounded to the model's dtype, the scale that
it really absorbed is returned, so that the weights can make up for the rounding.
"""

from typing import Any

import torch
from torch import nn

from studyctl.compress.walk.architectures import Absorber, Block


def can_fold(
    block: Block, absorber: Absorber, scales: torch.Tensor, weights: dict[str, torch.Tensor], bits: int
) -> torch.Tensor:
    """Return for each of some scales whether what precedes a linear group can be divided by it within its dtype.

    Args:
        block: is not changed.
        absorber: of the linear group.
        scales: several s, ``[scales, in]``, fp32, positive.
        weights: fp32 weights of the block's linears by full name.
        bits: of the codes of an absorbing linear.
    """
    module: Any = block.module.get_submodule(absorber.module)
    dtype, inputs = module.weight.dtype, scales.shape[1]
    smallest = smallest_precise(dtype)
    if isinstance(module, nn.Linear):
        old = weights[f"{block.name}.{absorber.module}"][-inputs:].abs().amax(1)
        new = old / scales
        smallest *= 2**bits  # its grid's scales are that much smaller
    else:
        offset = 1.0 if absorber.adds_one else 0.0
        old = (module.weight.data.float() + offset).abs()
        new = (_divided_norm(module, scales, offset).float() + offset).abs()
    # What is smaller than that already may not become smaller still.
    foldable = fits(new, dtype) & (new >= old.clamp(max=smallest)).all(1)
    if getattr(module, "bias", None) is not None:
        foldable &= fits(module.bias.data[-inputs:] / scales, dtype)
    return foldable


def fits(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return for each row of values ``[rows, n]`` whether all lie within half the range of a dtype, bool ``[rows]``.

    The other half is for what calibration did not see, and for grids, which may end beyond the weights.
    """
    return (values.abs() <= torch.finfo(dtype).max / 2).all(1)


def smallest_precise(dtype: torch.dtype) -> float:
    """Return the number from which on a dtype has at least bfloat16's eight digits: in fp16 it is a subnormal one."""
    limits = torch.finfo(dtype)
    return limits.smallest_normal * limits.eps / torch.finfo(torch.bfloat16).eps


def fold(
    block: Block,
    absorber: Absorber,
    scales: torch.Tensor,
    weights: dict[str, torch.Tensor],
    parameters: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Divide what precedes a linear group by a scale.

    Args:
        block: is not changed.
        absorber: of the linear group.
        scales: s, ``[in]``, fp32, positive.
        weights: fp32 weights of the block's linears by full name; those of an absorbing linear are changed.
        parameters: receives the new values of the block's other parameters by full name.

    Returns:
        The scale by which the group's weights are to be multiplied, ``[in]``, fp32.
    """
    name = f"{block.name}.{absorber.module}"
    module: Any = block.module.get_submodule(absorber.module)
    if isinstance(module, nn.Linear):
        weights[name][-len(scales) :] /= scales[:, None]
        if module.bias is not None:
            bias = module.bias.data.clone()
            bias[-len(scales) :] = (bias[-len(scales) :].float() / scales).to(bias.dtype)
            parameters[f"{name}.bias"] = bias
        return scales
    offset = 1.0 if absorber.adds_one else 0.0
    old = module.weight.data.float() + offset
    weight = _divided_norm(module, scales, offset)
    new = weight.float() + offset
    # A channel whose weight is 0 passes nothing on: any scale will do.
    absorbed = torch.where((old != 0) & (new != 0), old / new, scales)
    parameters[f"{name}.weight"] = weight
    if getattr(module, "bias", None) is not None:
        parameters[f"{name}.bias"] = (module.bias.data.float() / absorbed).to(module.bias.dtype)
    return absorbed


def _divided_norm(norm: Any, scales: torch.Tensor, offset: float) -> torch.Tensor:
    """Return the stored weight of a norm that multiplies by ``(offset + weight) / scales``."""
    weight: torch.Tensor = ((norm.weight.data.float() + offset) / scales - offset).to(norm.weight.dtype)
    return weight

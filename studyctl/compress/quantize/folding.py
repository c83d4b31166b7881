"""Folding a scale of a linear group's inputs into the module before it, so that the block computes the same function.

If the inputs of linears become ``x / s``, their weights must become ``W · s``. A norm divides its weight and bias by s; a
linear divides the rows that make x, and their biases. If a norm's weight is rounded to the model's dtype, the scale that
it really absorbed is returned, so that the weights can make up for the rounding.
"""

from typing import Any

import torch
from torch import nn

from studyctl.compress.walk.architectures import Absorber, Block


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
    weight: torch.Tensor = (old / scales - offset).to(module.weight.dtype)
    new = weight.float() + offset
    # A channel whose weight is 0 passes nothing on: any scale will do.
    absorbed = torch.where((old != 0) & (new != 0), old / new, scales)
    parameters[f"{name}.weight"] = weight
    if getattr(module, "bias", None) is not None:
        parameters[f"{name}.bias"] = (module.bias.data.float() / absorbed).to(module.bias.dtype)
    return absorbed

"""Weights whose outputs lie nearer to the dense model's.

GPTQ keeps ``W X``, the outputs on the activations X that the layers compressed before give. The dense model's are ``W X_d``. The
weights of least squared distance to ``W (X + a (X_d − X))`` on X are ``W + a W S H⁻¹`` with ``S = (X_d − X)ᵀ X`` and ``H = Xᵀ X``:
for a = 1 the asymmetric calibration of GPTAQ (Li et al. 2025), which fits the calibration text more than others; half-way is between.
"""

import torch

from studyctl.compress.sweep.inverse import InverseRoot
from studyctl.compress.weights.compressed import LinearGroup


def towards_dense(
    weights: torch.Tensor,
    linears: LinearGroup,
    inverse: InverseRoot,
    order: torch.Tensor | None,
    target: float,
) -> torch.Tensor:
    """Return the weights to round, ``[out, in]``, fp32.

    Args:
        weights: W, ``[out, in]``, fp32.
        linears: with S, unless ``target`` is 0.
        inverse: of the damped H, in sweep order.
        order: the column that is swept at each step, ``[in]``; None: from left to right.
        target: a.
    """
    if target == 0:
        return weights
    assert linears.statistics is not None
    assert linears.statistics.shift is not None
    shifted = weights @ linears.statistics.shift
    if order is not None:
        shifted = shifted[:, order]
    change = shifted @ inverse.root.T @ inverse.root
    if order is not None:
        change = change[:, order.argsort()]
    return weights.add(change, alpha=target)

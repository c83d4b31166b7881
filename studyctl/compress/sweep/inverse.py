"""The inverse of a damped Hessian, as the factor that the column sweeps of SparseGPT and GPTQ need."""

from dataclasses import dataclass

import torch

from studyctl.compress.sweep.columns import blocks
from studyctl.compress.walk.statistics import is_finite
from studyctl.compress.weights.compressed import LinearGroup
from studyctl.errors import StepError

TRIES = 6
"""How many dampings are tried in fp64, each ten times the one before, until the step fails."""
PANEL = 128
"""Columns that are inverted at once."""


@dataclass(frozen=True)
class InverseRoot:
    """U with ``(H + λI)⁻¹ = Uᵀ U``, as in both papers' code, and the damping that was needed."""

    root: torch.Tensor
    """U, ``[in, in]``, fp32, upper triangular."""
    dead: torch.Tensor
    """bool ``[in]``: inputs that are 0 for every token (``H_jj = 0``)."""
    damping: float
    """Fraction of the mean of diag H that was added to it: more than the setting if H needed more."""


def damped_inverse(linears: LinearGroup, damping: float, order: torch.Tensor | None = None) -> InverseRoot:
    """Return the root of the inverse of the linears' damped Hessian; warn if it took more damping than the setting.

    Args:
        linears: with their Hessian, which is not changed.
        damping: see :func:`inverse_root`.
        order: an order of the inputs, ``[in]``; root and ``dead`` are in that order.
    """
    hessian = linears.hessian
    if order is not None:
        hessian = hessian[order[:, None], order]
    # The diagonal is changed and restored: a copy of H would be as large as its root.
    diagonal = hessian.diagonal().clone()
    try:
        inverse = inverse_root(hessian, damping, linears.names)
    finally:
        hessian.diagonal().copy_(diagonal)
    if inverse.damping > damping:
        linears.reporter.warning(
            f"the Hessian of `{linears.names[0]}` is singular with damping {damping:g}: {inverse.damping:g} was used"
        )
    return inverse


def damping_over_median(hessian: torch.Tensor, damping: float) -> float:
    """Return λ over the median of diag H, both of the live inputs: above 1, damping dominates for most of them. 0: none is live."""
    live = hessian.diagonal()[hessian.diagonal() != 0]
    return float(damping * live.mean() / live.quantile(0.5)) if live.numel() else 0.0


def inverse_root(hessian: torch.Tensor, damping: float, names: tuple[str, ...]) -> InverseRoot:
    """Factor the inverse of ``H + λI``, ``λ = damping · mean(diag H)``; a dead input's H_jj counts as the mean of the live ones'.

    So no input without a token changes λ. (The papers' code takes 1, whatever the size of the activations.)

    H is factored from its last input to its first, ``H + λI = A Aᵀ`` with A upper triangular, and ``U = A⁻¹``. The papers' code
    factors H, inverts it and factors the inverse: more work, and more rounding where H is nearly singular. If fp32 cannot
    factor H, fp64 tries the same damping, and then ten times as much, until it can.

    Args:
        hessian: H, ``[in, in]``, symmetric, fp32; its diagonal is changed.
        damping: the setting.
        names: of the linears, for the error.

    Raises:
        StepError: none of the dampings makes it invertible.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1.0 if bool(dead.all()) else diagonal[~dead].mean()
    mean = hessian.diag().mean()  # of a contiguous copy, in fp32: summed in the order of the papers' code
    diagonal += damping * mean
    root = _root(hessian)
    added = damping
    if root is None:
        matrix = hessian.double()
        for _ in range(TRIES):
            root = _root(matrix)
            if root is not None:
                break
            matrix.diagonal().add_(9 * added * mean.double())
            added *= 10
    if root is None:
        listed = ", ".join(f"`{name}`" for name in names)
        raise StepError(
            f"the Hessian of {listed} cannot be inverted, even with damping {added / 10:g}",
            hint="calibrate with more text, or in another dtype: activations may overflow",
        )
    return InverseRoot(root, dead, added)


def _root(matrix: torch.Tensor) -> torch.Tensor | None:
    """Return U, or None if the matrix is not positive definite in its precision."""
    # Factored and inverted in the memory of one copy: for a wide MLP's last linear that is a quarter of a gigabyte. The matrix is
    # symmetric, so its transpose is the same matrix in the column-major order of LAPACK.
    factor = matrix.flip(0, 1).mT
    failed = factor.new_empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(factor, out=(factor, failed))
    if failed:
        return None
    _invert(factor)
    factor = factor.mT.flip(0, 1).mT
    # Subnormal pivots pass the factorisation and overflow in the inverse.
    # Checked transposed, as it lies in memory: otherwise the extremes would be taken of a copy.
    return factor.float() if is_finite(factor.mT) else None


def _invert(factor: torch.Tensor) -> None:
    """Invert a lower triangular matrix in place, ``PANEL`` columns at a time from the last to the first.

    ``[[L, 0], [C, R]]⁻¹ = [[L⁻¹, 0], [−R⁻¹ C L⁻¹, R⁻¹]]``
    """
    columns = len(factor)
    eye = torch.eye(PANEL, dtype=factor.dtype, device=factor.device)
    for panel in reversed(list(blocks(columns, PANEL))):
        corner, later = factor[panel, panel], slice(panel.stop, columns)
        inverse = torch.linalg.solve_triangular(corner, eye[: len(corner), : len(corner)], upper=False)
        factor[later, panel] = factor[later, later] @ factor[later, panel] @ -inverse
        factor[panel, panel] = inverse

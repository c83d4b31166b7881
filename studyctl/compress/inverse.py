"""The inverse of a damped Hessian, as the factor that the column sweeps of SparseGPT and GPTQ need."""

from dataclasses import dataclass

import torch

from studyctl.compress.compressed import StageInput
from studyctl.compress.statistics import is_finite
from studyctl.errors import StageError

TRIES = 6
"""How often damping is raised tenfold before a Hessian is given up."""


@dataclass(frozen=True)
class InverseRoot:
    """U with ``(H + λI)⁻¹ = Uᵀ U``, as both papers' code has it, and what it took to get it."""

    root: torch.Tensor
    """U, ``[in, in]``, fp32, upper triangular."""
    dead: torch.Tensor
    """bool ``[in]``: inputs that are 0 for every token (``H_jj = 0``)."""
    damping: float
    """Fraction of the mean of diag H that was added to it: more than was asked for where H needed it."""


def stage_inverse(stage: StageInput, damping: float, order: torch.Tensor | None = None) -> InverseRoot:
    """Return the inverse of a stage's damped Hessian; say so where it took more damping than was asked for.

    Args:
        stage: with its Hessian, which stays as it is.
        damping: see :func:`inverse_root`.
        order: an order of the inputs, ``[in]``; the result is in that order.
    """
    assert stage.statistics is not None
    assert stage.statistics.hessian is not None
    hessian = stage.statistics.hessian
    if order is not None:
        hessian = hessian[order[:, None], order]
    # The diagonal is changed and put back: a copy of all would be as large as what is made of it.
    diagonal = hessian.diagonal().clone()
    try:
        inverse = inverse_root(hessian, damping, stage.names)
    finally:
        hessian.diagonal().copy_(diagonal)
    if inverse.damping > damping:
        stage.reporter.warning(
            f"the Hessian of `{stage.names[0]}` is singular with damping {damping:g}: {inverse.damping:g} was used"
        )
    return inverse


def inverse_root(hessian: torch.Tensor, damping: float, names: tuple[str, ...]) -> InverseRoot:
    """Factor the inverse of ``H + λI``, ``λ = damping · mean(diag H)``; a dead input's H_jj counts as 1.

    As in the papers' code H is factored, inverted and its inverse factored. (A factorisation in reversed order and one
    triangular inverse would do, but rounds otherwise.) If fp32 cannot, fp64 tries the same damping, and then ten times
    as much, until it can.

    Args:
        hessian: H, ``[in, in]``, symmetric, fp32; its diagonal is changed.
        damping: as asked for.
        names: of the linears, for the error.

    Raises:
        StageError: no damping makes it invertible.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1.0
    mean = hessian.diag().mean()  # of a copy side by side, in fp32: summed in the order of the papers' code
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
        raise StageError(
            f"the Hessian of {listed} cannot be inverted, even with damping {added / 10:g}",
            hint="calibrate with more text, or in another dtype: activations may overflow",
        )
    return InverseRoot(root, dead, added)


def _root(matrix: torch.Tensor) -> torch.Tensor | None:
    """Return U, or None if the matrix is not positive definite in its precision."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        return None
    # From here on in place, on a CPU: of a wide MLP's last linear each of these is half a gigabyte.
    torch.cholesky_inverse(factor, out=factor)
    torch.linalg.cholesky_ex(factor, upper=True, out=(factor, failed))
    # Subnormal pivots pass the first factorisation and overflow in the inverse.
    # LAPACK's columns lie side by side: read as rows, or the extremes are taken of a copy.
    return None if failed or not is_finite(factor.mT) else factor.float()

"""Statistics of a stage's input over the calibration tokens.

One definition for every method. With ``x_t`` the input at token ``t`` of ``n`` tokens:

- ``norm``      ‖x_j‖₂ = sqrt(Σ_t x_tj²), ``[in]``, a sum over tokens, accumulated in fp64
- ``mean_abs``  1/n · Σ_t |x_tj|, ``[in]``, accumulated in fp64
- ``hessian``   H = 2/n · Σ_t x_t x_tᵀ, ``[in, in]``, fp32: the Hessian of the mean squared output error of a row
"""

from dataclasses import dataclass

import torch

from studyctl.compress.settings import StatisticName

SAMPLE_TOKENS = 1024
"""Tokens of a stage's input that are kept to measure output errors on."""
HESSIAN_TILE = 512
"""H is symmetric: only tiles on and above the diagonal are computed."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of one stage's input; those that the method did not ask for are None."""

    tokens: int
    sample: torch.Tensor
    """``[about SAMPLE_TOKENS, in]``: every k-th token of the input, the model's dtype."""
    norm: torch.Tensor | None
    mean_abs: torch.Tensor | None
    hessian: torch.Tensor | None

    def is_finite(self) -> bool:
        """Whether no input was infinite or NaN, and no sum overflowed."""
        diagonal = None if self.hessian is None else self.hessian.diagonal()
        parts = (part for part in (self.norm, self.mean_abs, diagonal) if part is not None)
        return all(bool(torch.isfinite(part).all()) for part in parts)


class Accumulator:
    """Adds up the statistics of one stage, chunk by chunk."""

    def __init__(self, wanted: frozenset[StatisticName], expected_tokens: int) -> None:
        self._wanted = wanted
        self._every = max(1, expected_tokens // SAMPLE_TOKENS)
        self._tokens = 0
        self._sample: list[torch.Tensor] = []
        self._squares: torch.Tensor | None = None
        self._absolutes: torch.Tensor | None = None
        self._products: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens seen so far."""
        return self._tokens

    def add(self, inputs: torch.Tensor) -> None:
        """Add ``inputs`` ``[..., in]``, any floating dtype."""
        inputs = inputs.detach().reshape(-1, inputs.shape[-1])  # [tokens, in]
        first = -self._tokens % self._every
        self._sample.append(inputs[first :: self._every].clone())
        self._tokens += inputs.shape[0]
        values = inputs.float()
        if "norm" in self._wanted:
            squares = values.square().sum(0, dtype=torch.float64)
            self._squares = squares if self._squares is None else self._squares.add_(squares)
        if "mean_abs" in self._wanted:
            absolutes = values.abs().sum(0, dtype=torch.float64)
            self._absolutes = absolutes if self._absolutes is None else self._absolutes.add_(absolutes)
        if "hessian" in self._wanted:
            if self._products is None:
                self._products = values.new_zeros(values.shape[1], values.shape[1])
            _add_upper_products(self._products, values)

    def finish(self) -> Statistics:
        """Return the statistics and let go of the sums; call it once, after at least one :meth:`add`."""
        hessian, self._products = self._products, None
        if hessian is not None:
            hessian = _mirrored(hessian).mul_(2 / self._tokens)
        return Statistics(
            tokens=self._tokens,
            sample=torch.cat(self._sample),
            norm=None if self._squares is None else self._squares.sqrt().float(),
            mean_abs=None if self._absolutes is None else (self._absolutes / self._tokens).float(),
            hessian=hessian,
        )


def _add_upper_products(products: torch.Tensor, values: torch.Tensor) -> None:
    """Add ``valuesᵀ values`` to the tiles of ``products`` ``[in, in]`` on and above the diagonal."""
    for start in range(0, values.shape[1], HESSIAN_TILE):
        rows = slice(start, start + HESSIAN_TILE)
        products[rows, start:].addmm_(values[:, rows].T, values[:, start:])


def _mirrored(products: torch.Tensor) -> torch.Tensor:
    """Fill what lies below the diagonal from what lies above, in place."""
    for start in range(0, products.shape[0], HESSIAN_TILE):
        end = start + HESSIAN_TILE
        tile = products[start:end, start:end]
        tile.copy_(tile.triu() + tile.triu(1).T)
        products[end:, start:end] = products[start:end, end:].T
    return products


def relative_error(dense: torch.Tensor, compressed: torch.Tensor, sample: torch.Tensor | None) -> float:
    """Return ``‖X (W − W')ᵀ‖ / ‖X Wᵀ‖`` (Frobenius); without a sample X of the input, ``‖W − W'‖ / ‖W‖``.

    Args:
        dense: W, ``[out, in]``.
        compressed: W', ``[out, in]``.
        sample: X, ``[tokens, in]``, or None.
    """
    reference = dense.float()
    difference = reference - compressed.float()
    if sample is not None:
        difference, reference = (sample.float() @ part.T for part in (difference, reference))
    size = _frobenius(reference)
    return _frobenius(difference) / (size or 1.0)


def _frobenius(matrix: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))

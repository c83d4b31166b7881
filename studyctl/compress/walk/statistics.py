"""Statistics of the input of linears over the calibration tokens.

One definition for every method. With ``x_t`` the input at a token ``t`` of ``n`` samples (windows of text):

- ``norm``      sqrt(1/n · Σ_t x_tj²), ``[in]``, fp32: ‖x_j‖₂ up to a factor that all inputs share
- ``mean_abs``  mean of |x_tj| over all tokens, ``[in]``, accumulated in fp64; with it ``peak``, the largest |x_tj|
- ``hessian``   H = 2/n · Σ_t x_t x_tᵀ, ``[in, in]``, fp32: the Hessian of a row's squared output error, mean over samples

``norm`` and ``hessian`` are added up sample by sample with the operations of the published code of Wanda, SparseGPT and
GPTQ. So they do not depend on how many samples pass through a block at once, and near-ties of scores are decided as
there: in a damaged small model one weight more or less in an early block changes perplexity by several percent.
"""

import math
from dataclasses import dataclass

import torch

from studyctl.compress.quantize.grid import row_parts
from studyctl.contract.methods import StatisticName

HESSIAN_TILE = 192
"""Inputs of a strip: a Hessian is symmetric, so in each strip only the diagonal block and what is right of it are computed."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of one input; those that the method does not need are None."""

    tokens: int
    sample: torch.Tensor
    """``[tokens, in]``: every k-th token of the input, the model's dtype; output errors are measured on them."""
    norm: torch.Tensor | None
    mean_abs: torch.Tensor | None
    hessian: torch.Tensor | None
    peak: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    """``2/n · Σ_t (d_t − x_t) x_tᵀ``, ``[in, in]``, with d_t the dense model's input at the same place; None: not measured."""

    def is_finite(self) -> bool:
        """Whether no input was infinite or NaN, and no sum overflowed."""
        diagonal = None if self.hessian is None else self.hessian.diagonal()
        parts = (part for part in (self.norm, self.mean_abs, diagonal, self.shift) if part is not None)
        return all(bool(torch.isfinite(part).all()) for part in parts)


class Accumulator:
    """Adds up the statistics of one input, chunk by chunk."""

    def __init__(self, names: frozenset[StatisticName], expected_tokens: int) -> None:
        self._names = names
        # About a 16th of the tokens, but 64 to 256: more would take a good part of the time of a pass.
        self._every = max(1, expected_tokens // min(256, max(64, expected_tokens // 16)))
        self._sample_size = -(-expected_tokens // self._every)
        self.tokens = 0
        """Tokens seen so far."""
        self._samples = 0
        self._sample: torch.Tensor | None = None
        self._sampled = 0
        self._squares: torch.Tensor | None = None
        self._absolutes: torch.Tensor | None = None
        self._peak: torch.Tensor | None = None
        self._products: torch.Tensor | None = None
        self._shift: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor, dense: torch.Tensor | None = None) -> None:
        """Add ``inputs`` ``[samples, tokens, in]`` or ``[tokens, in]``, any floating dtype; without samples they are added at once.

        Args:
            inputs: of the linears.
            dense: those of the dense model, of the same shape; None: ``shift`` is not measured.
        """
        if inputs.numel() == 0:
            return
        if dense is not None:
            self._add_shift(inputs.detach(), dense.detach())
        samples = inputs.detach().reshape(-1, *inputs.shape[-2:])
        inputs = samples.flatten(0, 1)  # [tokens, in]
        picked = inputs[-self.tokens % self._every :: self._every]
        # Allocated at once: pieces that live for a whole pass would fragment the heap.
        if self._sample is None:
            self._sample = picked.new_empty(self._sample_size, picked.shape[1])
        free = self._sample[self._sampled : self._sampled + len(picked)]
        free.copy_(picked[: len(free)])
        self._sampled += len(free)
        self.tokens += inputs.shape[0]
        for sample in samples:  # [tokens, in]
            self._add_sample(sample)
        if "mean_abs" in self._names:
            magnitudes = inputs.float().abs()
            absolutes, peak = magnitudes.sum(0, dtype=torch.float64), magnitudes.amax(0)
            self._absolutes = absolutes if self._absolutes is None else self._absolutes.add_(absolutes)
            self._peak = peak if self._peak is None else torch.maximum(self._peak, peak)

    def _add_sample(self, sample: torch.Tensor) -> None:
        inputs = sample.shape[1]
        kept = self._samples / (self._samples + 1)
        self._samples += 1
        if "norm" in self._names:
            if self._squares is None:
                self._squares = sample.new_zeros(inputs, dtype=torch.float32)
            norms = torch.linalg.vector_norm(sample.float().T, dim=1)
            self._squares.mul_(kept).add_(norms.square() / self._samples)
        if "hessian" in self._names:
            if self._products is None:
                self._products = sample.new_zeros(inputs, inputs, dtype=torch.float32)
            _add_upper_products(self._products, sample, kept, 2 / self._samples)

    def _add_shift(self, inputs: torch.Tensor, dense: torch.Tensor) -> None:
        samples = len(inputs)
        kept = self._samples / (self._samples + samples)
        ours, theirs = inputs.flatten(0, 1).float(), dense.flatten(0, 1).float()
        change = (theirs - ours).T @ ours * (2 / (self._samples + samples))
        self._shift = change if self._shift is None else self._shift.mul_(kept).add_(change)

    def finish(self, samples: int | None = None) -> Statistics:
        """Return the statistics and free the sums; call it once, after at least one :meth:`add`.

        Args:
            samples: how many there were, where modules take the tokens of several at once, as experts do; None: those added.
        """
        assert self._sample is not None
        hessian, self._products = self._products, None
        share = self._samples / (samples or self._samples)
        if hessian is not None:
            hessian = _mirrored(hessian)
            if share != 1:
                hessian *= share
        return Statistics(
            tokens=self.tokens,
            sample=self._sample[: self._sampled],
            norm=None if self._squares is None else (self._squares * share).sqrt(),
            mean_abs=None if self._absolutes is None else (self._absolutes / self.tokens).float(),
            hessian=hessian,
            peak=self._peak,
            shift=self._shift,
        )


def _add_upper_products(products: torch.Tensor, sample: torch.Tensor, kept: float, share: float) -> None:
    """Set ``products`` ``[in, in]`` to ``products · kept + share · sampleᵀ sample``, on and above the diagonal."""
    exact_in_16_bit = sample.is_cuda and sample.dtype != torch.float32
    values = sample if exact_in_16_bit else math.sqrt(share) * sample.float()  # [tokens, in]
    for start in range(0, sample.shape[1], HESSIAN_TILE):
        rows, tile = values[:, start : start + HESSIAN_TILE], products[start : start + HESSIAN_TILE, start:]
        tile *= kept
        if exact_in_16_bit:  # products of 16-bit numbers are exact in fp32, so tensor cores lose nothing
            tile.add_(torch.mm(rows.T, values[:, start:], out_dtype=torch.float32), alpha=share)
        else:  # not `addmm_`, which is faster but does not round like the published code
            tile += rows.T @ values[:, start:]


def _mirrored(products: torch.Tensor) -> torch.Tensor:
    """Copy the upper triangle to the lower one, in place."""
    for start in range(0, products.shape[0], HESSIAN_TILE):
        end = start + HESSIAN_TILE
        tile = products[start:end, start:end]
        tile.copy_(tile.triu() + tile.triu(1).T)
        products[end:, start:end] = products[start:end, end:].T
    return products


def is_finite(matrix: torch.Tensor) -> bool:
    """Return whether all values are finite, without a mask as large as the matrix: minimum and maximum keep NaN and inf."""
    return bool(torch.isfinite(torch.stack(matrix.aminmax())).all())


def relative_error(dense: torch.Tensor, compressed: torch.Tensor, sample: torch.Tensor | None) -> float:
    """Return ``‖X (W − W')ᵀ‖ / ‖X Wᵀ‖`` (Frobenius); without a sample X of the input, ``‖W − W'‖ / ‖W‖``.

    Args:
        dense: W, ``[out, in]``.
        compressed: W', ``[out, in]``.
        sample: X, ``[tokens, in]``, or None.
    """
    inputs = None if sample is None else sample.float()
    squares = torch.zeros(2, dtype=torch.float64, device=dense.device)
    for part in row_parts(*dense.shape):  # three fp32 copies of a wide linear would be its peak of memory
        reference = dense[part].float()
        for index, rows in enumerate((reference - compressed[part], reference)):
            outputs = rows if inputs is None else inputs @ rows.T
            squares[index] += torch.linalg.vector_norm(outputs, dtype=torch.float64).square()
    difference, size = squares.sqrt().tolist()
    return float(difference / (size or 1.0))

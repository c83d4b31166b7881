"""SparseGPT's and GPTQ's loops as the papers' code computes them: linear by linear and column by column, in fp32, in plain torch.

Figures of that code were taken on one processor. On another, products of matrices round otherwise; this tells how much that is.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from studyctl.compress.walk.activations import record_activations
from studyctl.compress.walk.architectures import decoder_blocks
from studyctl.reporter import SilentReporter

BLOCK = 128
DAMPING = 0.01
Solve = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes of a weight ``[out, in]`` and its Hessian ``[in, in]`` a compressed weight."""


@torch.no_grad()
def compress(model: nn.Module, ids: torch.Tensor, solve: Solve) -> None:
    """Compress a model in place, block by block; every linear sees the inputs that it has in the uncompressed block.

    Args:
        model: a causal language model on one device, in fp32 for the papers' figures.
        ids: int64 ``[samples, tokens]``, which pass one sample at a time.
        solve: the method.
    """
    blocks = decoder_blocks(model)
    device = next(model.parameters()).device
    activations = record_activations(model, blocks, ids, batch_tokens=ids.shape[1], device=device)
    for block in blocks:
        hessians = {name: _Hessian(linear.in_features, device) for name, linear in block.linears.items()}
        handles = [
            linear.register_forward_pre_hook(hessians[name].add)
            for name, linear in block.linears.items()
            if isinstance(linear, nn.Linear)
        ]
        for sample in range(len(activations.hidden)):
            activations.forward(block, sample)
        for handle in handles:
            handle.remove()
        for name, linear in block.linears.items():
            linear.weight.copy_(solve(linear.weight.float(), hessians[name].products))
        activations.advance(block, SilentReporter())


def sparsegpt(sparsity: float) -> Solve:
    """Return SparseGPT, unstructured."""
    return partial(_sparsegpt, sparsity=sparsity)


def gptq(bits: int, group_size: int) -> Solve:
    """Return GPTQ with asymmetric groups."""
    return partial(_gptq, top=2**bits - 1, group_size=group_size)


class _Hessian:
    """2/n · Σ x xᵀ over samples, each added to the mean of those before it."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.products = torch.zeros(inputs, inputs, device=device)
        self.samples = 0

    def add(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Add what a linear is given of one sample."""
        self.products *= self.samples / (self.samples + 1)
        self.samples += 1
        inputs = math.sqrt(2 / self.samples) * args[0].flatten(0, -2).T.float()
        self.products += inputs @ inputs.T


def _root(weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return U with ``Uᵀ U`` the inverse of the damped Hessian; weights of dead inputs become 0."""
    dead = hessian.diag() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    diagonal = torch.arange(len(hessian), device=hessian.device)
    hessian[diagonal, diagonal] += DAMPING * hessian.diag().mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    root: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return root


def _sparsegpt(weight: torch.Tensor, hessian: torch.Tensor, sparsity: float) -> torch.Tensor:
    weight = weight.clone()
    root = _root(weight, hessian)
    for start in range(0, weight.shape[1], BLOCK):
        part = weight[:, start : start + BLOCK].clone()
        own = root[start : start + BLOCK, start : start + BLOCK]
        scores = part.square() / own.diag().square()
        gone = scores <= scores.flatten().sort().values[int(scores.numel() * sparsity)]
        errors = torch.zeros_like(part)
        for column in range(part.shape[1]):
            kept = part[:, column].masked_fill(gone[:, column], 0)
            errors[:, column] = (part[:, column] - kept) / own[column, column]
            part[:, column:] -= errors[:, column, None] @ own[None, column, column:]
            weight[:, start + column] = kept
        weight[:, start + BLOCK :] -= errors @ root[start : start + BLOCK, start + BLOCK :]
    return weight


def _gptq(weight: torch.Tensor, hessian: torch.Tensor, top: int, group_size: int) -> torch.Tensor:
    weight = weight.clone()
    root = _root(weight, hessian)
    result = torch.zeros_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        part = weight[:, start : start + BLOCK].clone()
        own = root[start : start + BLOCK, start : start + BLOCK]
        errors = torch.zeros_like(part)
        for column in range(part.shape[1]):
            first = start + column
            if first % group_size == 0:  # weights as they were when the sweep entered the block
                scale, zero = _grid(weight[:, first : first + group_size], top)
            codes = ((part[:, column] / scale).round() + zero).clamp(0, top)
            result[:, first] = scale * (codes - zero)
            errors[:, column] = (part[:, column] - result[:, first]) / own[column, column]
            part[:, column:] -= errors[:, column, None] @ own[None, column, column:]
        weight[:, start + BLOCK :] -= errors @ root[start : start + BLOCK, start + BLOCK :]
    return result


def _grid(group: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
    scale = (high - low) / top
    return scale, (-low / scale).round()

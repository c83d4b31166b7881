"""How much attention depends on what a linear makes of each token, and Hessians in which tokens count by that.

All later tokens attend to keys and values of a text's first one, so an error there does far more than one elsewhere. How
much is ``Σ_r (∂(v · y) / ∂z_r)²``, with y attention's output for all tokens, z a linear's output for one, and v random signs:
in expectation over v that is ``‖∂y/∂z‖²``, the squared Frobenius norm of the Jacobian.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from studyctl.compress.quantize.module_objective import module_of
from studyctl.compress.walk.activations import states_of
from studyctl.compress.walk.replay import PassEnded
from studyctl.compress.walk.statistics import is_finite
from studyctl.compress.weights.compressed import BlockInput, StageInput

JUDGED_SAMPLES = 4
"""So many calibration samples are enough to tell: the chunks that hold them pass through attention once more, and back."""


def weighted_hessians(block: BlockInput, stage: StageInput) -> tuple[torch.Tensor, ...] | None:
    """Return for each linear ``Σ_t w_t x_t x_tᵀ`` over the first calibration samples, fp32 ``[in, in]``.

    The same calibration gives the same bits on a CPU. Attention's gradients on a GPU may differ in their last ones.
    Where they are not finite, as with attention scores beyond what fp32 tells apart, there is no telling: a warning says so.

    Args:
        block: with the dense block and its inputs.
        stage: linears of its attention.

    Returns:
        A Hessian of each linear; None where a gradient is not finite.
    """
    size = stage.weights[0].shape[1]
    device = block.activations.device
    totals = tuple(torch.zeros(size, size, device=device) for _ in stage.names)
    samples = 0
    for chunk, hidden in enumerate(block.activations.hidden):
        if samples >= JUDGED_SAMPLES:
            break
        block.reporter.check_stop()
        samples += len(hidden)
        inputs, weights = _inputs_and_weights(block, stage, chunk)
        for total, counted in zip(totals, weights, strict=True):
            total.addmm_((inputs * counted[:, None]).T, inputs)
    if all(map(is_finite, totals)):
        return totals
    block.reporter.warning(
        f"attention's gradients are not finite in `{block.block.name}`: all tokens count alike there"
    )
    return None


def _inputs_and_weights(
    block: BlockInput, stage: StageInput, chunk: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the tokens of a chunk, fp32 ``[tokens, in]``, and how much each counts for each linear, ``[tokens]``."""
    with torch.enable_grad(), _watched(block, stage) as (inputs, outputs, made):
        with suppress(PassEnded):
            block.activations.forward(block.block, chunk)
        random = torch.Generator(made[0].device).manual_seed(chunk)
        signs = torch.empty_like(made[0]).bernoulli_(generator=random).mul_(2).sub_(1)
        leaves = [outputs[name] for name in stage.names]
        gradients = torch.autograd.grad(made[0], leaves, signs, allow_unused=True, materialize_grads=True)
    weights = [gradient.flatten(0, -2).float().square_().sum(1) for gradient in gradients]
    return inputs[0].flatten(0, -2).float(), weights


@contextmanager
def _watched(
    block: BlockInput, stage: StageInput
) -> Iterator[tuple[list[torch.Tensor], dict[str, torch.Tensor], list[torch.Tensor]]]:
    """Record what the linears read, what each of them makes, as leaves of a graph, and their module's output, which ends the pass."""
    inputs: list[torch.Tensor] = []
    outputs: dict[str, torch.Tensor] = {}
    made: list[torch.Tensor] = []

    def read(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        inputs.append(args[0].detach())

    def split(name: str, _: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        outputs[name] = output.detach().requires_grad_()
        return outputs[name].clone()  # a leaf must not be changed in place, as some models do

    def end(_: nn.Module, __: object, output: Any) -> None:
        made.append(states_of(output))
        raise PassEnded

    linears = block.block.linears
    handles = [linears[stage.names[0]].register_forward_pre_hook(read)]
    handles += [linears[name].register_forward_hook(partial(split, name)) for name in stage.names]
    handles.append(module_of(block.block, stage.names).register_forward_hook(end))
    try:
        yield inputs, outputs, made
    finally:
        for handle in handles:
            handle.remove()

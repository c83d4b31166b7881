"""The matrices over the vocabulary: the embedding, and the head unless it is the embedding.

Methods that change them do so before the decoder blocks, which then see the changed embedding. What the head multiplies, the hidden
states after the last norm, is measured on the dense model.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from studyctl.compress.walk.replay import PassEnded
from studyctl.compress.walk.statistics import Accumulator, Statistics
from studyctl.contract.methods import StatisticName
from studyctl.errors import StepError
from studyctl.reporter import Reporter

EMBEDDING_SHARE = 0.3
"""A tied embedding is a head, whose errors count by H, and the input of the first block, where a token reads one row and all of its
errors count alike. So this fraction of the mean of diag H is added to the diagonal. From 0.1 to 1 the KL was the same within its error
on a trained model of 6 M parameters; without any, it was 9 % higher, and with 10, 35 %."""


def vocabulary_matrices(model: Any) -> dict[str, nn.Module]:
    """Return the modules with a ``weight`` ``[vocabulary, hidden]`` by full name, the embedding first."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules() if module in (embedding, head)}
    matrices: dict[str, nn.Module] = {names[embedding]: embedding}
    if head is not None and head.weight is not embedding.weight:
        matrices[names[head]] = head
    return matrices


def measure_head(
    model: Any, ids: torch.Tensor, statistics: frozenset[StatisticName], batch_tokens: int, reporter: Reporter
) -> Statistics:
    """Return the statistics of what the head multiplies.

    Args:
        model: a causal language model of transformers.
        ids: int64 ``[samples, tokens]``.
        statistics: those to measure.
        batch_tokens: tokens of a pass; at least one sample.
        reporter: only its ``check_stop`` is used.

    Raises:
        StepError: the activations are not finite.
    """
    accumulator = Accumulator(statistics, ids.numel())
    head = model.get_output_embeddings()

    def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        accumulator.add(inputs[0])
        raise PassEnded  # the logits of a pass may take more memory than the model

    handle = head.register_forward_pre_hook(add)
    device = head.weight.device
    try:
        for part in torch.split(ids, max(1, batch_tokens // ids.shape[1])):
            reporter.check_stop()
            with suppress(PassEnded):
                model(input_ids=part.to(device), use_cache=False)
    finally:
        handle.remove()
    measured = accumulator.finish()
    if not measured.is_finite():
        raise StepError(
            "the calibration activations that reach the head are not finite",
            hint="run the model in bfloat16 or float32; float16 overflows beyond 65,504",
        )
    return measured

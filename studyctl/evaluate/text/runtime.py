"""Distance to the dense model of logits that another program computes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from studyctl.contract.records import RuntimeDistance
from studyctl.errors import StepError
from studyctl.evaluate.text.reference import DenseReference
from studyctl.evaluate.text.windows import Windows
from studyctl.reporter import Reporter

Continued = Callable[[Sequence[int]], NDArray[np.float32]]
"""Takes the next tokens of a sequence, and returns their logits ``[tokens, vocabulary]``."""


@torch.no_grad()
def compare_runtime(
    sequence: Callable[[int], AbstractContextManager[Continued]],
    windows: Windows,
    reference: DenseReference,
    language: str,
    batch: int,
    reporter: Reporter,
) -> RuntimeDistance:
    """Return ``KL(dense || runtime)`` over windows, as :mod:`studyctl.evaluate.text.score` defines it.

    Args:
        sequence: begins a sequence with room for so many tokens.
        windows: the first of those that the reference is of.
        reference: the dense model's hidden states.
        language: of the text.
        batch: tokens of a call.
        reporter: only its ``check_stop`` is used, before every call.

    Raises:
        StepError: the runtime has another vocabulary, or its logits are not finite.
    """
    head = reference.load_head()
    total, tokens = 0.0, windows.scored_tokens
    for ids, states in zip(windows.ids, reference.states, strict=False):
        with sequence(tokens) as continued:
            for first in range(0, tokens, batch):
                reporter.check_stop()
                part = slice(first, min(first + batch, tokens))
                logits = torch.from_numpy(continued(ids[part].tolist()))
                if logits.shape[1] != head.vocabulary:
                    raise StepError(
                        f"the runtime has {logits.shape[1]} logits a token, the dense model {head.vocabulary}: they cannot be compared"
                    )
                log_p = functional.log_softmax(head.logits(states[part].cpu()), dim=-1)
                ratio = log_p - functional.log_softmax(logits, dim=-1)
                total += float(torch.linalg.vecdot(log_p.exp_(), ratio).clamp_(min=0).double().sum())
    if not np.isfinite(total):
        raise StepError("the runtime's logits are not finite", hint="its kernels overflow: use another grid")
    return RuntimeDistance(
        language=language, windows=len(windows), tokens=len(windows) * tokens, kl_nats=total
    )

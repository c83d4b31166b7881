"""From token ids to final hidden states, and from those to logits.

The two are separate so that the logits of a whole text never exist at once, and so that the dense model's predictions can be
stored as hidden states. Families differ in what follows ``lm_head`` (a scale, a soft cap); :func:`open_head` compares with
the model's own logits and refuses a family that does anything else.
"""

import hashlib
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from studyctl.errors import StepError

PROBE_TOKENS = 16
"""Tokens on which logits are compared with the model's own."""
_CHECKED: WeakSet[Any] = WeakSet()
"""Models that passed this comparison: changes of weights do not matter for it."""


@dataclass(frozen=True)
class Head:
    """Turns final hidden states into logits: ``softcap · tanh(scale · (W h + b) / softcap)``."""

    weight: Tensor
    """``[vocabulary, hidden]``, in the dtype of the model."""
    bias: Tensor | None
    """``[vocabulary]``."""
    scale: float = 1.0
    softcap: float | None = None
    """None: no cap."""

    @property
    def vocabulary(self) -> int:
        """Return the number of logits of a token."""
        return self.weight.shape[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states ``[tokens, hidden]`` as fp32 ``[tokens, vocabulary]``.

        The product is computed in the dtype of the model, as the model itself does; everything after it in fp32.
        """
        logits: Tensor = functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def fingerprint(self) -> str:
        """Return the hash of weight, bias, dtype, scale and soft cap: 32 hex digits."""
        state = hashlib.blake2b(
            f"{self.weight.dtype} {tuple(self.weight.shape)} {self.scale} {self.softcap}".encode(),
            digest_size=16,
        )
        for tensor in (self.weight, self.bias):
            if tensor is not None:
                state.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
        return state.hexdigest()


@dataclass(frozen=True)
class Decoder:
    """A causal language model without its head."""

    module: nn.Module
    head: Head
    device: torch.device

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the final hidden states ``[rows, tokens, hidden]`` of ids ``[rows, tokens]``, after the last norm."""
        output: Tensor = self.module(input_ids=ids, use_cache=False).last_hidden_state
        return output


def open_head(model: Any, ids: Tensor) -> Decoder:
    """Split a ``transformers`` causal language model into decoder and head, and check that these give its logits.

    Args:
        model: the model, in evaluation mode.
        ids: ``[tokens]``, a few tokens to compare on.

    Raises:
        StepError: the logits are not what ``lm_head``, scale and soft cap give.
    """
    config = model.config.get_text_config()
    output: Any = model.get_output_embeddings()
    if not isinstance(getattr(output, "weight", None), Tensor):
        raise _unknown_head(model, "it has no output embedding with a weight")
    head = Head(
        weight=output.weight.detach(),
        bias=None if getattr(output, "bias", None) is None else output.bias.detach(),
        scale=_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    decoder = Decoder(model.get_decoder(), head, head.weight.device)
    if model in _CHECKED:
        return decoder
    probe = ids[:PROBE_TOKENS].to(decoder.device)[None]
    hidden = decoder.hidden(probe)[0]
    expected = model(input_ids=probe, use_cache=False).logits[0].float()
    # The model computes scale and cap in its dtype, the head in fp32: 16-bit models round once more.
    tolerance = (1e-4 if head.weight.dtype == torch.float32 else 2e-2) * expected.abs().max().clamp(min=1e-6)
    same_width = hidden.shape[-1] == head.weight.shape[1]
    # Logits that are not finite are reported when they are scored.
    if not same_width or (
        torch.isfinite(expected).all() and not (head.logits(hidden) - expected).abs().max() <= tolerance
    ):
        raise _unknown_head(model, "its logits are not its hidden states times `lm_head`, scaled and capped")
    _CHECKED.add(model)
    return decoder


def not_finite(where: str = "", what: str = "logits") -> StepError:
    """Return the error to raise if logits, or what leads to them, are not finite."""
    return StepError(
        f"the {what} are not finite{where}: the model does not compute any more",
        hint="compress less, or use dtype float32 or bfloat16 if it is float16",
    )


def _scale(config: Any) -> float:
    """Return the factor of a family's logits."""
    if getattr(config, "logits_scaling", None) is not None:  # Granite divides
        return 1 / float(config.logits_scaling)
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    return 1.0


def _unknown_head(model: Any, reason: str) -> StepError:
    return StepError(
        f"the output of {type(model).__name__} is computed in a way that is not supported: {reason}",
        hint="perplexity and fidelity cannot be measured for this family; leave it out of `models`",
    )

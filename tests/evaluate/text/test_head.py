from collections.abc import Callable
from typing import Any

import pytest
import torch

from studyctl.errors import StepError
from studyctl.evaluate.text.head import open_head

IDS = torch.arange(40, 60)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "granite"])
@torch.no_grad()
def test_hidden_states_and_head_give_the_models_logits(tiny: Callable[..., Any], family: str) -> None:
    model = tiny(family)
    decoder = open_head(model, IDS)
    expected = model(IDS[None]).logits[0]
    torch.testing.assert_close(
        decoder.head.logits(decoder.hidden(IDS[None])[0]), expected, rtol=1e-6, atol=1e-6
    )
    assert expected.abs().max() > 1


@torch.no_grad()
def test_logits_of_16_bit_models_are_fp32_and_hidden_states_stay_16_bit(tiny: Callable[..., Any]) -> None:
    decoder = open_head(tiny("gemma2", dtype=torch.bfloat16), IDS)
    hidden = decoder.hidden(IDS[None])[0]
    assert hidden.dtype == torch.bfloat16
    assert decoder.head.logits(hidden).dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "change", [lambda x: x * 1.1, lambda x: x + x.square().sqrt() * 0.2, lambda x: x.tanh() * 3]
)
def test_a_family_that_does_something_else_is_refused(
    tiny: Callable[..., Any],
    change: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("llama", dtype=dtype)
    forward = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(model, "forward", changed)
    with pytest.raises(StepError, match="LlamaForCausalLM is computed in a way that is not supported"):
        open_head(model, IDS)


def test_the_fingerprint_names_weights_scale_and_cap(tiny: Callable[..., Any]) -> None:
    with torch.no_grad():
        heads = {name: open_head(tiny(name), IDS).head for name in ("llama", "gemma2")}
        again = open_head(tiny("llama"), IDS).head
        other = open_head(tiny("llama", seed=1), IDS).head
    assert heads["llama"].fingerprint() == again.fingerprint()
    assert len({heads["llama"].fingerprint(), heads["gemma2"].fingerprint(), other.fingerprint()}) == 3

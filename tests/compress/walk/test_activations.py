"""Block-by-block propagation is the model's own forward, for every family."""

import pytest
import torch
from torch import nn

from studyctl.compress.walk.activations import record_activations
from studyctl.compress.walk.architectures import decoder_blocks
from studyctl.errors import StepError
from studyctl.reporter import SilentReporter
from tests.compress.tiny import FAMILIES, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_block_receives_and_returns_what_it_does_in_the_model(family: str, ids: torch.Tensor) -> None:
    model = tiny_model(family)
    blocks = decoder_blocks(model)
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def note(
        _: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> None:
        inputs.append(args[0])
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.module.register_forward_hook(note) for block in blocks]
    model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()

    activations = record_activations(model, blocks, ids, batch_tokens=48, device=CPU)
    for block, expected_input, expected_output in zip(blocks, inputs, outputs, strict=True):
        torch.testing.assert_close(torch.cat(activations.hidden), expected_input, rtol=0, atol=1e-5)
        activations.advance(block, SilentReporter())
        torch.testing.assert_close(torch.cat(activations.hidden), expected_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3_text"])
@torch.no_grad()
def test_windows_matter_in_these_models(family: str, ids: torch.Tensor) -> None:
    """Otherwise the parity above would hold with any mask."""
    full = {"layer_types": ["full_attention"] * 3} if family != "mistral" else {"sliding_window": None}
    with_window, without = (tiny_model(family, **changes)(input_ids=ids).logits for changes in ({}, full))
    assert (with_window - without).abs().max() > 1e-3


def test_recording_leaves_the_model_as_it_was(ids: torch.Tensor) -> None:
    model = tiny_model("llama")
    before = model(input_ids=ids).logits
    record_activations(model, decoder_blocks(model), ids, batch_tokens=48, device=CPU)
    assert "forward" not in decoder_blocks(model)[0].module.__dict__
    assert torch.equal(model(input_ids=ids).logits, before)


def test_arguments_that_are_equal_in_all_chunks_are_kept_once(ids: torch.Tensor) -> None:
    model = tiny_model("gemma2")  # eager attention: a mask for every kind of layer
    activations = record_activations(model, decoder_blocks(model), ids, batch_tokens=48, device=CPU)
    assert [chunk.shape[0] for chunk in activations.hidden] == [2, 2, 1]
    masks = [[call.kwargs["attention_mask"] for call in calls] for calls in activations.calls]
    assert masks[0][0] is masks[1][0] is masks[1][2]
    assert masks[0][1] is masks[1][1]
    assert not torch.equal(masks[0][0], masks[0][1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(0, 24, dtype=torch.int64), "no token to calibrate with"),
        (torch.zeros(4, 0, dtype=torch.int64), "no token to calibrate with"),
        (torch.zeros(24, dtype=torch.int64), "no token to calibrate with"),
        (torch.tensor([[3, 61]]), "reach from 3 to 61, but the vocabulary of this model has 61 tokens"),
        (torch.tensor([[-1, 5]]), "reach from -1 to 5"),
    ],
)
def test_ids_that_cannot_be_used_are_named(bad: torch.Tensor, message: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(StepError, match=message):
        record_activations(model, decoder_blocks(model), bad, batch_tokens=48, device=CPU)

"""With ``order = "stage"`` tokens go through attention once, and what is measured is what it would be with every pass whole."""

from typing import Any

import pytest
import torch
from torch import nn

from studyctl.compress import walker
from studyctl.compress.architectures import Block, Stage, decoder_blocks, known_stages
from studyctl.compress.replay import replay_of
from studyctl.compress.settings import GPTQ, SparseGPT, Wanda, WithData
from studyctl.compress.walker import compress
from studyctl.reporter import SilentReporter

from .tiny import FAMILIES, tiny_model

SETTINGS = {
    "gptq": GPTQ(bits=3, group_size=16, order="stage"),
    "sparsegpt": SparseGPT(sparsity=0.5, order="stage"),
    "wanda-dense": Wanda(sparsity=0.5, order="stage", propagate="dense"),
}


def compressed(model: nn.Module, settings: WithData, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
    return model.state_dict()


def counted(model: nn.Module) -> list[int]:
    """Count, for every block, how many chunks reach the last linear of attention."""
    calls = []
    for block in decoder_blocks(model):
        projection = next(
            linear for name, linear in block.linears.items() if name.endswith(("o_proj", "out_proj", "dense"))
        )
        calls.append(0)

        def note(*_: object, _index: int = block.index) -> None:
            calls[_index] += 1

        projection.register_forward_pre_hook(note)
    return calls


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_as_with_whole_passes(
    family: str, settings: WithData, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(walker, "replay_of", lambda *_: None)
        plain = compressed(tiny_model(family), settings, ids)
    replayed = compressed(tiny_model(family), settings, ids)
    assert replayed.keys() == plain.keys()
    assert all(torch.equal(replayed[name], plain[name]) for name in plain)


def reached(family: str, ids: torch.Tensor) -> tuple[list[int], bool]:
    """Return how many chunks reach the last linear of attention in each block, and whether the family is known."""
    model = tiny_model(family)
    calls = counted(model)
    is_known = known_stages(model.config.model_type, decoder_blocks(model)[0]) is not None
    compressed(model, SETTINGS["gptq"], ids)
    return calls, is_known


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom"}))
def test_every_chunk_goes_through_attention_once_after_its_projections_are_measured(
    family: str, ids: torch.Tensor
) -> None:
    calls, is_known = reached(family, ids)
    chunks = 3  # 5 x 24 ids, 48 tokens a chunk
    expected = 2 * chunks  # each as it is measured, and as the compressed linear answers for it
    if not is_known:  # the pass of the first stage is whole, and one chunk shows what the stages are
        expected += chunks + 1
    assert calls == [
        expected + 1,
        *[expected] * (len(calls) - 1),
    ]  # the recorder makes one call of the first block


def test_a_module_that_goes_on_after_its_last_linear_runs_in_every_pass(
    ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> nn.Module:
        made = tiny_model("llama")
        for block in decoder_blocks(made):
            own = block.module.self_attn.forward  # type: ignore[union-attr]

            def forward(*args: Any, _own: Any = own, **kwargs: Any) -> Any:
                output = _own(*args, **kwargs)
                return (output[0] * 2, *output[1:])

            block.module.self_attn.forward = forward  # type: ignore[union-attr]
        return made

    with monkeypatch.context() as patch:
        patch.setattr(walker, "replay_of", lambda *_: None)
        plain = compressed(model(), SETTINGS["gptq"], ids)
    assert all(
        torch.equal(value, plain[name]) for name, value in compressed(model(), SETTINGS["gptq"], ids).items()
    )


def test_attention_that_adds_the_residual_itself_runs_in_every_pass(ids: torch.Tensor) -> None:
    calls, _ = reached("bloom", ids)
    chunks = 3
    # One looks; passes for the first, second, third and last stage, and one for the next block's input.
    assert calls == [5 * chunks + 2, 5 * chunks + 1, 4 * chunks + 1]


def test_modules_are_as_before(ids: torch.Tensor) -> None:
    model = tiny_model("llama")
    compressed(model, SETTINGS["gptq"], ids)
    assert all("forward" not in vars(part) for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_only_a_module_that_ends_in_a_stage_of_one_linear_and_not_the_last_has_one() -> None:
    def stages(family: str) -> tuple[Block, list[Stage]]:
        model = tiny_model(family)
        block = decoder_blocks(model)[0]
        found = known_stages(model.config.model_type, block)
        assert found is not None
        return block, found

    for family, expected in {
        "llama": [False, True, False, False],
        "phi3": [False, True, False, False],  # `qkv_proj` is alone in its stage, but attention goes on
    }.items():
        block, found = stages(family)
        assert [replay_of(block, found, stage) is not None for stage in found] == expected

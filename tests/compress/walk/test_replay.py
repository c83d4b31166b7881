"""With ``order = "stage"`` tokens go through attention once, and what is measured is what it would be with every pass whole."""

from typing import Any

import pytest
import torch
from torch import nn

from studyctl.compress.walk import replay, walker
from studyctl.compress.walk.architectures import decoder_blocks, known_linear_groups
from studyctl.compress.walk.replay import copied_to, replay_of
from studyctl.compress.walk.walker import compress
from studyctl.contract.methods import GPTQ, SparseGPT, Wanda, WithData
from studyctl.reporter import SilentReporter
from tests.compress.tiny import FAMILIES, tiny_model

SETTINGS = {
    "gptq": GPTQ(bits=3, group_size=16, order="stage"),
    "sparsegpt": SparseGPT(sparsity=0.5, order="stage"),
    "wanda-dense": Wanda(sparsity=0.5, order="stage", propagate="dense"),
}

CHUNK_BYTES = 48 * 48 * 4
"""Of what goes into the last linear of an MLP of 48 inputs: 48 tokens in fp32."""
ATTENTION_ENDS = ("o_proj", "out_proj", "dense")


def compressed(model: nn.Module, settings: WithData, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
    return model.state_dict()


def counted(model: nn.Module, *ends: str) -> list[int]:
    """Count, for every block, how many chunks reach the linear with a name that ends so."""
    calls = []
    for block in decoder_blocks(model):
        projection = next(linear for name, linear in block.linears.items() if name.endswith(ends))
        calls.append(0)

        def note(*_: object, _index: int = block.index) -> None:
            calls[_index] += 1

        projection.register_forward_pre_hook(note)
    return calls


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in FAMILIES),
        ("gemma2", {"head_dim": 4}),  # attention is narrower than the block
        ("gemma3_text", {"head_dim": 16}),  # and wider
        ("qwen3", {"head_dim": 4}),
        ("qwen3", {"head_dim": 16}),
        ("llama", {"dtype": torch.bfloat16}),
    ],
    ids=str,
)
def test_the_same_bits_as_with_whole_passes(
    family: str,
    changes: dict[str, Any],
    settings: WithData,
    ids: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(walker, "replay_of", lambda *_, **__: None)
        plain = compressed(tiny_model(family, **changes), settings, ids)
    monkeypatch.setattr(replay, "KEPT_BYTES", CHUNK_BYTES)  # of one chunk
    replayed = compressed(tiny_model(family, **changes), settings, ids)
    assert replayed.keys() == plain.keys()
    assert all(torch.equal(replayed[name], plain[name]) for name in plain)


def reached(family: str, ids: torch.Tensor) -> tuple[list[int], bool]:
    """Return how many chunks reach the last linear of attention in each block, and whether the family is known."""
    model = tiny_model(family)
    calls = counted(model, *ATTENTION_ENDS)
    is_known = known_linear_groups(model.config.model_type, decoder_blocks(model)[0]) is not None
    compressed(model, SETTINGS["gptq"], ids)
    return calls, is_known


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom"}))
def test_every_chunk_goes_through_attention_once_after_its_projections_are_measured(
    family: str, ids: torch.Tensor
) -> None:
    calls, is_known = reached(family, ids)
    chunks = 3  # 5 x 24 ids, 48 tokens a chunk
    expected = 2 * chunks  # each as it is measured, and as the compressed linear answers for it
    if not is_known:  # the pass of the first linear group is whole, and one chunk shows what the groups are
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
        patch.setattr(walker, "replay_of", lambda *_, **__: None)
        plain = compressed(model(), SETTINGS["gptq"], ids)
    assert all(
        torch.equal(value, plain[name]) for name, value in compressed(model(), SETTINGS["gptq"], ids).items()
    )


def test_attention_that_adds_the_residual_itself_runs_in_every_pass(ids: torch.Tensor) -> None:
    calls, _ = reached("bloom", ids)
    chunks = 3
    # One looks; passes for the first, second, third and last linear group, and one for the next block's input.
    assert calls == [5 * chunks + 2, 5 * chunks + 1, 4 * chunks + 1]


def test_modules_are_as_before(ids: torch.Tensor) -> None:
    model = tiny_model("llama")
    compressed(model, SETTINGS["gptq"], ids)
    assert all("forward" not in vars(part) for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_module_that_ends_in_a_group_of_one_linear_has_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    def replays(family: str, kept_bytes: int) -> list[int]:
        """Return of how many of six chunks the end of each linear group's module would be known."""
        monkeypatch.setattr(replay, "KEPT_BYTES", kept_bytes)
        model = tiny_model(family)
        block = decoder_blocks(model)[0]
        linear_groups = known_linear_groups(model.config.model_type, block)
        assert linear_groups is not None
        hidden = [torch.zeros(2, 24, model.config.hidden_size)] * 6
        stages = [[linears] for linears in linear_groups]
        made = [replay_of(block, stages, index, hidden) for index in range(len(stages))]
        return [0 if part is None else part.chunks for part in made]

    assert replays("llama", 4 * CHUNK_BYTES) == [0, 6, 0, 4]
    # `qkv_proj` is alone in its linear group, but attention goes on.
    assert replays("phi3", 3 * CHUNK_BYTES - 1) == [0, 6, 0, 2]
    assert replays("llama", CHUNK_BYTES - 1) == [0, 6, 0, 0]
    assert replays("llama", 9 * CHUNK_BYTES) == [0, 6, 0, 6]


@pytest.mark.parametrize("spared", [0, 1, 2, 3])
def test_the_mlp_runs_again_only_for_chunks_that_are_not_kept(
    ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch, spared: int
) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(replay, "KEPT_BYTES", spared * CHUNK_BYTES)
    calls = counted(model, "gate_proj")
    compressed(model, SETTINGS["gptq"], ids)
    chunks = 3
    # It is reached to be measured, for the input of the last linear, and for the next block's input where there is one.
    expected = 2 * chunks + (chunks - spared)
    assert calls == [expected + 1, expected, 2 * chunks]  # the recorder makes one call of the first block


def test_a_copy_is_contiguous_and_has_memory_of_its_own() -> None:
    """What a block does with its tensors later must not change what was kept."""
    states = torch.arange(12.0).reshape(3, 4).T
    copy = copied_to(states, states.device)
    assert torch.equal(copy, states)
    assert copy.is_contiguous()
    states.zero_()
    assert copy.any()

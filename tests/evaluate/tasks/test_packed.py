"""Answers from trees are those of plain forward passes, in every family, or the model is not scored in trees."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from studyctl.evaluate.tasks.attention import NAME
from studyctl.evaluate.tasks.packed import PackedScorer, open_packed
from studyctl.evaluate.tasks.packing import Chunk
from studyctl.evaluate.tasks.trees import Prompt
from studyctl.evaluate.text.head import open_head
from tests.compress.tiny import VOCABULARY, tiny_model

TREES = [
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt_neox", "opt",
]  # fmt: skip


def random_prompts(lengths: list[int], branches: int, targets: int, seed: int = 0) -> list[Prompt]:
    """Return prompts that share contexts of these lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    prompts = []
    start = draw(3)
    for length in lengths:
        context = start + draw(length - 3)
        for _ in range(branches):
            answer = draw(targets)
            prompts.append(Prompt(context + answer[:-1], answer))
    return prompts


def plainly(model: Any, prompt: Prompt, pad: int = 0) -> tuple[float, bool]:
    """Return the answer by the model's own forward pass on this prompt alone, or as the first of three rows padded to a width."""
    end = len(prompt.tokens)
    row = [*prompt.tokens, *[0] * (pad - end)]
    with torch.no_grad():
        logits = model(torch.tensor([row] * (3 if pad else 1))).logits[0].float()
    logits = logits[end - len(prompt.targets) : end]
    targets = torch.tensor(prompt.targets)
    nats = logits.log_softmax(-1).gather(1, targets[:, None]).double().sum()
    return float(nats), bool((logits.argmax(-1) == targets).all())


def packed(model: Any, prompts: list[Prompt], budget: int = 100) -> list[tuple[float, bool]]:
    scorer = open_packed(model, prompts)
    assert isinstance(scorer, PackedScorer), scorer
    answers: dict[int, tuple[float, bool]] = {}
    for chunk in scorer.chunks(prompts, budget):
        answers |= dict(zip(chunk.prompts.tolist(), scorer.score(chunk), strict=True))
    return [answers[number] for number in range(len(prompts))]


def assert_plain(model: Any, prompts: list[Prompt], **options: Any) -> None:
    for answer, prompt in zip(packed(model, prompts, **options), prompts, strict=True):
        expected = plainly(model, prompt)
        assert answer[0] == pytest.approx(expected[0], abs=1e-4)
        assert answer[1] == expected[1]


@pytest.mark.parametrize("targets", [1, 4])
@pytest.mark.parametrize("family", TREES)
def test_answers_are_those_of_each_prompt_alone_far_beyond_a_sliding_window(
    family: str, targets: int
) -> None:
    prompts = random_prompts([4, 20, 20, 33], branches=3, targets=targets)
    assert_plain(tiny_model(family), prompts)


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_the_budget_does_not_change_answers(budget: int) -> None:
    assert_plain(tiny_model("gemma2"), random_prompts([5, 9, 17], branches=2, targets=2), budget=budget)


def test_in_groups_with_padding_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("studyctl.evaluate.tasks.packing", fromlist=["x"]).PADDING, "cpu", 0.5)
    for family in ("llama", "gemma2", "phi3"):
        prompts = random_prompts([20, 18, 15, 13, 12], branches=2, targets=2)
        assert_plain(tiny_model(family), prompts, budget=10_000)


def test_equal_prompts_and_prompts_within_others() -> None:
    (long, *_) = random_prompts([12], branches=1, targets=5)
    inner = Prompt(long.tokens[:7], (9,))
    assert_plain(tiny_model("llama"), [long, inner, long, inner])


def test_one_token_before_one_token() -> None:
    assert_plain(tiny_model("llama"), [Prompt((5,), (9,)), Prompt((5,), (10,)), Prompt((6,), (9,))])


def test_a_likeliest_continuation_is_marked() -> None:
    model = tiny_model("llama")
    (prompt, *_) = random_prompts([9], branches=1, targets=1)
    with torch.no_grad():
        likeliest = int(model(torch.tensor([prompt.tokens])).logits[0, -1].argmax())
    answers = packed(model, [Prompt(prompt.tokens, (likeliest,)), Prompt(prompt.tokens, (likeliest ^ 1,))])
    assert [greedy for _, greedy in answers] == [True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_sixteen_bits_are_as_near_to_fp32_as_plain_passes_are(family: str, dtype: torch.dtype) -> None:
    prompts = random_prompts([10, 25], branches=3, targets=2)
    exact, model = tiny_model(family), tiny_model(family, dtype=dtype)
    expected = torch.tensor([plainly(exact, prompt)[0] for prompt in prompts])
    plain = torch.tensor([plainly(model, prompt)[0] for prompt in prompts])
    trees = torch.tensor([answer[0] for answer in packed(model, prompts)])
    assert (trees - expected).abs().mean() <= 1.5 * (plain - expected).abs().mean() + 1e-3


@pytest.mark.parametrize("family", [*TREES, "mixtral"])
def test_the_tokens_of_other_branches_change_no_bit_of_an_answer(family: str) -> None:
    model, prompts = tiny_model(family), random_prompts([4, 20, 33], branches=4, targets=3)
    scorer = PackedScorer(model, open_head(model, torch.tensor([5, 6])))
    (chunk,) = scorer.chunks(prompts, 10_000)
    for kept, prompt in enumerate(prompts):
        owner = chunk.prompts.tolist().index(kept)
        path = _path(chunk, prompt, int(chunk.rows[chunk.owners == owner].max()))
        other = replace(chunk, ids=np.where(path, chunk.ids, (chunk.ids + 7) % VOCABULARY))
        before, after = scorer.score(chunk)[owner], scorer.score(other)[owner]
        if family == "mixtral":  # an expert's other tokens are others, so its sums are rounded otherwise
            assert after[0] == pytest.approx(before[0], abs=1e-4)
        else:
            assert after == before


def _path(chunk: Chunk, prompt: Prompt, last: int) -> np.ndarray:
    """Return where the tokens of a prompt are in a chunk, from its last one upwards: the nearest one before at each depth."""
    path = np.zeros(len(chunk.ids), bool)
    at = last
    for depth in reversed(range(len(prompt.tokens))):
        while chunk.positions[at] != depth:
            at -= 1
        assert chunk.ids[at] == prompt.tokens[depth]
        path[at] = True
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["slm-llama-12m", "slm-qwen2-6m"])
def test_trained_models_read_real_items_in_trees_in_every_dtype(real: Path, name: str, dtype: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(real / "models" / name, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(real / "models" / name)
    lines = (real / "tasks" / "arc_easy_test.jsonl").read_text("utf-8").splitlines()[:12]
    prompts = []
    for item in map(json.loads, lines):
        context = tokenizer.encode(f"Question: {item['question']}\nAnswer:")
        for choice in item["choices"]["text"]:
            answer = tokenizer.encode(f" {choice}", add_special_tokens=False)
            prompts.append(Prompt((*context, *answer[:-1]), tuple(answer)))
    alone = np.array([plainly(model, prompt)[0] for prompt in prompts])
    trees = np.array([nats for nats, _ in packed(model, prompts, budget=1024)])
    width = max(len(prompt.tokens) for prompt in prompts)
    padded = np.array([plainly(model, prompt, pad=width)[0] for prompt in prompts])
    noise = max(np.abs(padded - alone).max(), 1e-5 * np.abs(alone).max())
    assert np.abs(trees - alone).max() <= 2 * noise


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation
    packed(model, random_prompts([9], branches=2, targets=2))
    assert model.config._attn_implementation == before != NAME


def test_the_same_chunk_gives_the_same_bits() -> None:
    model, prompts = tiny_model("qwen3"), random_prompts([9, 20], branches=3, targets=3)
    assert packed(model, prompts) == packed(model, prompts)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bloom", {}),
        ("falcon", {}),
        ("mamba", {}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}),
    ],
)
def test_a_model_that_needs_more_than_attention_in_trees_is_found_out(
    family: str, changes: dict[str, Any]
) -> None:
    """Distances as biases (ALiBi), attention of its own, what runs along the row, and attention sinks."""
    model = tiny_model(family, **changes) if family in ("bloom", "falcon") else other_model(family, **changes)
    reason = open_packed(model, random_prompts([9, 12], branches=2, targets=2))
    assert isinstance(reason, str)
    assert reason


def other_model(family: str, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        pad_token_id=0,
        **changes,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def test_a_model_with_a_window_is_probed_again_when_prompts_grow_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    from studyctl.evaluate.tasks import packed as module

    fault = module._fault
    monkeypatch.setattr(
        module,
        "_fault",
        lambda scorer, prompts: (
            asked.append(max(len(one.tokens) for one in prompts)) or fault(scorer, prompts)
        ),
    )
    for family, expected in (("mistral", [20, 40]), ("llama", [20])):
        asked.clear()
        model = tiny_model(family)
        for length in (20, 40, 30):
            packed(model, random_prompts([length], branches=1, targets=1))
        assert asked == expected, family


def test_a_wrong_answer_in_trees_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from studyctl.evaluate.tasks.attention import Layout

    right = Layout.mask
    monkeypatch.setattr(Layout, "mask", lambda self, group, window: right(self, group, None))
    prompts = random_prompts([30], branches=2, targets=2)
    reason = open_packed(tiny_model("mistral"), prompts)  # its window is 5
    assert isinstance(reason, str)
    assert "differs by" in reason


def test_prompts_that_begin_alike_do_not_hide_wrong_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prompts do not branch, or are too short for it, the probe branches by itself."""
    from studyctl.evaluate.tasks.attention import Layout

    def without_branches(self: Layout, group: Any, window: int | None) -> torch.Tensor | None:
        return None  # every token sees all before it, those of other branches too

    monkeypatch.setattr(Layout, "mask", without_branches)
    (prompt,) = random_prompts([40], branches=1, targets=1)
    for prompts in ([prompt], [prompt, Prompt((*prompt.tokens, 5), (6,))], [Prompt((5,), (6,))]):
        assert isinstance(open_packed(tiny_model("llama"), prompts), str)


def test_broken_weights_say_nothing_about_those_that_come_after() -> None:
    model, prompts = tiny_model("llama"), random_prompts([12], branches=2, targets=2)
    weight = model.model.layers[0].mlp.down_proj.weight.data
    kept = weight.clone()
    weight.fill_(torch.nan)
    assert isinstance(open_packed(model, prompts), PackedScorer)
    weight.copy_(kept)
    assert_plain(model, prompts)


def test_a_model_that_failed_is_probed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from studyctl.evaluate.tasks import packed as module

    model, prompts = tiny_model("llama"), random_prompts([12], branches=2, targets=2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_fault", lambda scorer, prompts: "a fault")
        assert isinstance(open_packed(model, prompts), str)
    assert_plain(model, prompts)

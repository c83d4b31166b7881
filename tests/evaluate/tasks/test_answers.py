"""Which tokens of a prompt are its answer: those that lm-eval scores, and where lm-eval finds none, the answer encoded alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from studyctl.errors import StepError
from studyctl.evaluate.tasks.scorer import Scorer
from tests.compress.tiny import tiny_model
from tests.evaluate.tasks.test_score_task import ITEMS, OWN, ROLLING, request_of, score, write

MERGES = [("w", "a"), ("t", "e"), ("wa", "te"), ("wate", "r"), ("x", "Ġ"), ("xĠ", "Ġ")]
SPECIAL = [("<s>", 256), ("</s>", 257)]
PAIRS = [
    ("It is", " wet"),
    ("It is ", "wet"),
    ("It is \n ", "wet"),
    ("It is", "   "),
    ("It is ", " "),
    ("Say:", "\nwater"),
    ("Say", "é🙂"),
    ("", " wet"),
    ("", "water"),
    ("<s>It is", " wet"),
]


def byte_level(template: str | None = None) -> PreTrainedTokenizerFast:
    """A token for each byte, some merges, and what the template adds."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [name for name, _ in SPECIAL]
    tokens += [left + right for left, right in MERGES]
    backend = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=MERGES)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if template is not None:
        backend.post_processor = TemplateProcessing(single=template, special_tokens=SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """Words begin with ▁, also the first; a letter that is no token is its bytes, as in SentencePiece."""
    tokens = [f"<0x{number:02X}>" for number in range(256)] + [name for name, _ in SPECIAL]
    merges = [("▁", "w"), ("▁w", "e"), ("▁we", "t")]
    tokens += ["▁", *map(chr, range(97, 123)), *(left + right for left, right in merges)]
    backend = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)}, merges=merges, byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.ByteFallback()
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", vocab_size=320, max_position_embeddings=128)


def requests(*pairs: tuple[str, str]) -> list[Instance]:
    return [
        Instance("loglikelihood", {}, pair, 0, metadata=("boats", number, 1))
        for number, pair in enumerate(pairs)
    ]


def ours(model: Any, tokenizer: Any, recorder: Any, *pairs: tuple[str, str]) -> list[float]:
    scorer = Scorer(model, tokenizer, "auto", 512, recorder)
    return [nats for nats, _ in scorer.run("loglikelihood", requests(*pairs))]


def by_hand(model: Any, context: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([context + answer])).logits[0].log_softmax(-1)
    return sum(float(logits[len(context) - 1 + at, token]) for at, token in enumerate(answer))


@pytest.mark.parametrize("make", [byte_level, lambda: byte_level("<s> $A"), byte_fallback])
def test_answers_are_split_and_scored_as_lm_eval_does(
    model: Any, recorder: Any, make: Callable[[], PreTrainedTokenizerFast]
) -> None:
    expected = HFLM(pretrained=model, tokenizer=make()).loglikelihood(requests(*PAIRS), disable_tqdm=True)
    assert ours(model, make(), recorder, *PAIRS) == pytest.approx([nats for nats, _ in expected], abs=1e-4)


class TestAnAnswerThatMergesWithItsContext:
    """The split leaves it without a token: as many tokens with it as without it."""

    def test_is_encoded_alone(self, model: Any, recorder: Any) -> None:
        tokenizer = byte_level()
        ids = tokenizer.convert_tokens_to_ids
        context = ids(["I", "Ġ", "wate"])
        assert tokenizer.encode("I wate") == context
        assert tokenizer.encode("I water") == ids(["I", "Ġ", "water"])
        expected = by_hand(model, context, ids(["r"]))
        assert expected < -1
        assert ours(model, tokenizer, recorder, ("I wate", "r")) == pytest.approx([expected], abs=1e-4)

    def test_with_the_spaces_at_the_end_of_the_context(self, model: Any, recorder: Any) -> None:
        tokenizer = byte_level()
        ids = tokenizer.convert_tokens_to_ids
        assert tokenizer.encode("x  ") == ids(["xĠĠ"])
        expected = by_hand(model, ids(["x"]), ids(["Ġ", "Ġ"]))
        assert ours(model, tokenizer, recorder, ("x ", " ")) == pytest.approx([expected], abs=1e-4)

    def test_after_a_bos_it_has_none_of_its_own(self, model: Any, recorder: Any) -> None:
        tokenizer = byte_level("<s> $A")
        ids = tokenizer.convert_tokens_to_ids
        expected = by_hand(model, ids(["<s>", "wate"]), ids(["r"]))
        assert ours(model, tokenizer, recorder, ("wate", "r")) == pytest.approx([expected], abs=1e-4)


def test_a_tokenizer_that_ends_texts_with_eos_does_not_shift_answers(model: Any, recorder: Any) -> None:
    with_eos = ours(model, byte_level("<s> $A </s>"), recorder, *PAIRS, ("wate", "r"))
    assert recorder.warnings == ["the tokenizer ends every text in `</s>`: prompts are scored without it"]
    assert with_eos == ours(model, byte_level("<s> $A"), recorder, *PAIRS, ("wate", "r"))


def test_the_callers_tokenizer_still_ends_texts(model: Any, recorder: Any) -> None:
    tokenizer = byte_level("<s> $A </s>")
    ours(model, tokenizer, recorder, ("a", "b"))
    assert tokenizer.encode("a")[-1] == 257


@pytest.mark.parametrize("context", ["It is", ""])
def test_an_answer_without_any_token_is_an_error_that_names_the_item(
    model: Any, recorder: Any, context: str
) -> None:
    with pytest.raises(StepError, match=r"the answer '' to item 1 of task `boats` has no tokens"):
        ours(model, byte_level(), recorder, ("a", "b"), (context, ""))


def test_an_empty_choice_is_an_error_that_names_the_item(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    """lm-eval scores the space before it, and divides by its length."""
    items = [ITEMS["xcopa_sw"][0], ITEMS["xcopa_sw"][1] | {"choice2": ""}]
    own = "task: own\noutput_type: multiple_choice\ndataset_path: json\ntest_split: test\n"
    own += 'doc_to_text: premise\ndoc_to_choice: "{{[choice1, choice2]}}"\ndoc_to_target: label\n'
    (tmp_path / "own.yaml").write_text(own)
    test = write(tmp_path / "test.jsonl", items)
    with pytest.raises(StepError) as caught:
        score(tiny(), tokenizer, request_of("own", test, yaml=tmp_path / "own.yaml"))
    (problem,) = caught.value.problems
    assert problem.what == f"item 1 of {test} has an empty choice"
    assert problem.hint == "the choices are ['Maji.', '']"


def test_an_empty_text_is_an_error_that_names_the_item(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    assert OWN in ROLLING
    write(tmp_path / "items.jsonl", [{"question": "Why?"}, {"question": ""}])
    (tmp_path / "own.yaml").write_text(ROLLING)
    with pytest.raises(StepError, match="the text of item 1 of task `own` has no tokens"):
        score(tiny(), tokenizer, request_of("own", None, yaml=tmp_path / "own.yaml"))


def test_a_tokenizer_without_bos_and_eos_is_an_error(model: Any, recorder: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    with pytest.raises(StepError, match="has neither a BOS nor an EOS token"):
        ours(model, tokenizer, recorder, ("a", "b"))


def test_more_new_tokens_than_the_model_reads_are_an_error(model: Any, recorder: Any) -> None:
    (asked,) = requests(("Why?", ""))
    asked.request_type, asked.arguments = "generate_until", ("Why?", {"max_gen_toks": 128})
    with pytest.raises(StepError, match=r"task `boats` cannot generate its answers: .*\(128\)"):
        Scorer(model, byte_level(), "auto", 512, recorder).run("generate_until", [asked])


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_a_token_beyond_the_embedding_is_an_error_that_names_it_and_the_item(
    model: Any, recorder: Any, kind: Any
) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([f"[new {number}]" for number in range(100)])
    arguments = {"loglikelihood": (" b",), "loglikelihood_rolling": (), "generate_until": ({},)}[kind]
    asked = [
        Instance(kind, {}, (text, *arguments), 0, metadata=("boats", number, 1))
        for number, text in enumerate(["a", "so [new 99]"])
    ]
    with pytest.raises(StepError) as caught:
        Scorer(model, tokenizer, "auto", 512, recorder).run(kind, asked)
    assert caught.value.problems[0].what == (
        "item 1 of task `boats` holds the token `[new 99]` (id 363), but the model's embedding has 320 rows"
    )

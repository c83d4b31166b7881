import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
import torch
from lm_eval.api import metrics
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from studyctl.contract.identity import FileIdentity, TaskIdentity
from studyctl.errors import StepError
from studyctl.evaluate.tasks.data import TaskRequest
from studyctl.evaluate.tasks.score import TaskScores, score_task
from studyctl.reporter import SilentReporter
from tests.thorough import THOROUGH

STOCK = Path(lm_eval.__file__).parent / "tasks"
YAML = {
    "arc_easy": STOCK / "arc" / "arc_easy.yaml",
    "arc_challenge": STOCK / "arc" / "arc_challenge.yaml",
    "openbookqa": STOCK / "openbookqa" / "openbookqa.yaml",
    "winogrande": STOCK / "winogrande" / "default.yaml",
    "rte": STOCK / "glue" / "rte" / "default.yaml",
    "boolq": STOCK / "super_glue" / "boolq" / "default.yaml",
    "xcopa_sw": STOCK / "xcopa" / "default_sw.yaml",
}
ANSWERS = [
    ["water", "a stone", "the sun"],
    ["red", "green", "blue", "a very long answer"],
    ["yes, it is", "no"],
    ["up", "down"],
]
ITEMS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {
            "question": f"What is {i}?",
            "choices": {"text": texts, "label": list("ABCD")[: len(texts)]},
            "answerKey": "AB"[i % 2],
        }
        for i, texts in enumerate(ANSWERS)
    ],
    "openbookqa": [
        {
            "question_stem": f"It is {i}",
            "choices": {"text": texts, "label": list("ABCD")[: len(texts)]},
            "answerKey": "BA"[i % 2],
        }
        for i, texts in enumerate(ANSWERS)
    ],
    "winogrande": [
        {
            "sentence": f"{i} was better than _ at home.",
            "option1": "Ann",
            "option2": "Bo",
            "answer": "12"[i % 2],
        }
        for i in range(4)
    ],
    "rte": [
        {"sentence1": f"It rains {i}.", "sentence2": "It is wet.", "label": i % 2, "idx": i} for i in range(4)
    ],
    "boolq": [
        {"passage": "Snow is cold.", "question": f"is snow {word}", "label": i % 2}
        for i, word in enumerate(["cold", "red", "warm"])
    ],
    "xcopa_sw": [
        {
            "premise": "Alifungua bomba.",
            "choice1": "Maji.",
            "choice2": "Choo.",
            "question": ["cause", "effect"][i % 2],
            "label": i % 2,
        }
        for i in range(4)
    ],
}
SCORED = {"winogrande": "validation", "rte": "validation", "boolq": "validation"}
EXAMPLES = {
    "arc_easy": "train",
    "openbookqa": "train",
    "winogrande": "train",
    "rte": "train",
    "boolq": "train",
    "xcopa_sw": "validation",
}


def write(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def task_of(
    name: str, yaml: Path | None, test: Path | None = None, fewshot: Path | None = None
) -> TaskIdentity:
    """Return a task as it is planned: a definition of one's own with the files beside it."""
    assert yaml is not None
    files = yaml.parent.rglob("*") if STOCK not in yaml.parents else []
    planned = tuple(
        FileIdentity(path.absolute(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
        if path.is_file()
    )
    return TaskIdentity(name, "key", yaml=yaml, files=planned, test=test, fewshot=fewshot)


def request_of(name: str, test: Path | None, **options: Any) -> TaskRequest:
    task = task_of(name, options.pop("yaml", YAML.get(name)), test, options.pop("fewshot", None))
    defaults = {"shots": 0, "limit": 0, "chat_template": False, "bos": "auto"}
    return TaskRequest(task, **(defaults | options))


def score(
    model: Any, tokenizer: Any, request: TaskRequest, reporter: Any = None, batch_tokens: int = 512
) -> TaskScores:
    return score_task(
        model,
        tokenizer,
        request,
        batch_tokens=batch_tokens,
        reporter=reporter or SilentReporter(),
    )


def by_lm_eval(
    model: Any,
    tokenizer: Any,
    name: str,
    files: dict[str, Path],
    *,
    shots: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Run lm-eval by itself on the same items."""
    config = load_yaml(YAML[name])
    for key in ("tag", "group"):
        config.pop(key, None)
    for key in ("training_split", "validation_split", "test_split"):
        if config.get(key) not in files:
            config.pop(key, None)
    data = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list([json.loads(line) for line in path.open()])
            for split, path in files.items()
        }
    )
    config["custom_dataset"] = lambda **_: data
    scorer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    manager = TaskManager(include_defaults=False)
    result: dict[str, Any] = lm_eval.simple_evaluate(
        scorer, tasks=[ConfigurableTask(config=config)], num_fewshot=shots, limit=limit, task_manager=manager
    )
    return result


def assert_equal(scores: TaskScores, expected: dict[str, Any], name: str) -> None:
    results, samples = expected["results"][name], expected["samples"][name]
    for metric in scores.metrics:
        assert metric.value == results[f"{metric.metric},none"]
        assert metric.stderr == results[f"{metric.metric}_stderr,none"]
        assert metric.items == results["sample_len"]
    assert {f"{metric.metric},none" for metric in scores.metrics} == {
        key for key in results if key.endswith(",none") and "_stderr" not in key
    }
    for row, sample in zip(scores.items.to_pylist(), samples, strict=True):
        assert row["task"] == name
        assert row["item"] == sample["doc_id"]
        assert row["correct"] == bool(sample["acc"])
        assert row["correct_norm"] == (bool(sample["acc_norm"]) if "acc_norm" in sample else None)
        assert row["loglikelihoods"] == pytest.approx(
            [answer[0] for answer in sample["filtered_resps"]], abs=1e-3
        )
        assert row["predicted"] == max(
            range(len(row["loglikelihoods"])), key=row["loglikelihoods"].__getitem__
        )
        assert row["correct"] == (row["gold"] == row["predicted"])


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", list(ITEMS))
def test_scores_are_lm_evals(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, name: str, shots: int
) -> None:
    test = write(tmp_path / "test.jsonl", ITEMS[name])
    files = {SCORED.get(name, "test"): test}
    fewshot = None
    if shots:
        fewshot = files[EXAMPLES[name]] = write(tmp_path / "fewshot.jsonl", ITEMS[name][::-1] * 2)
    model = tiny("llama", seed=3)
    scores = score(model, tokenizer, request_of(name, test, fewshot=fewshot, shots=shots))
    assert_equal(scores, by_lm_eval(model, tokenizer, name, files, shots=shots), name)


def test_gold_is_an_index_of_the_choices(tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> None:
    golds = {"arc_easy": [0, 1, 0, 1], "winogrande": [0, 1, 0, 1], "boolq": [0, 1, 0]}
    for name, expected in golds.items():
        items = score(tiny(), tokenizer, request_of(name, write(tmp_path / name, ITEMS[name]))).items
        assert items["gold"].to_pylist() == expected


def test_limit_takes_the_first_items(tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", ITEMS["arc_easy"])
    scores = score(tiny(), tokenizer, request_of("arc_easy", test, limit=2))
    assert scores.items["item"].to_pylist() == [0, 1]
    assert {metric.items for metric in scores.metrics} == {2}
    (of_one, _) = score(tiny(), tokenizer, request_of("arc_easy", test, limit=1)).metrics
    assert of_one.stderr is None, "the standard error of one value is not defined"


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_batches_do_not_change_scores(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, batch_tokens: int
) -> None:
    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    expected = score(tiny(), tokenizer, request)
    scores = score(tiny(), tokenizer, request, batch_tokens=batch_tokens)
    assert scores.metrics == expected.metrics
    for row, other in zip(scores.items.to_pylist(), expected.items.to_pylist(), strict=True):
        assert row["loglikelihoods"] == pytest.approx(other["loglikelihoods"], abs=1e-4)


def test_progress_reaches_its_total_and_a_stop_is_heard_between_batches(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, recorder: Any
) -> None:
    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    score(tiny(), tokenizer, request, recorder, batch_tokens=60)
    assert recorder.progressed[-1] == (11, 11, "request")
    assert len(recorder.progressed) == 3
    recorder.progressed.clear()
    recorder.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        score(tiny(), tokenizer, request, recorder, batch_tokens=60)
    assert len(recorder.progressed) == 2


def test_nothing_is_printed_or_drawn_and_loggers_are_left_as_they_were(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    levels = {name: logging.getLogger(name).level for name in ("lm_eval", "transformers", "datasets")}
    score(tiny(), tokenizer, request_of("xcopa_sw", write(tmp_path / "test.jsonl", ITEMS["xcopa_sw"])))
    assert tuple(capfd.readouterr()) == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels


def test_prompts_that_are_cut_are_reported(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, recorder: Any
) -> None:
    items = [ITEMS["rte"][0], ITEMS["rte"][1] | {"sentence1": "long " * 100}]
    score(tiny(), tokenizer, request_of("rte", write(tmp_path / "test.jsonl", items)), recorder)
    assert recorder.warnings == [
        "2 of 4 prompts are longer than the 256 tokens of the model: their beginning is cut off"
    ]


def test_an_answer_that_does_not_fit_is_named(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, recorder: Any
) -> None:
    items = [ITEMS["xcopa_sw"][0] | {"choice1": "a very long story " * 100}]
    with pytest.raises(
        StepError,
        match=r"^the answer 'a very long story a very long story a ve'… has 1,801 tokens, more than the 256",
    ):
        score(tiny(), tokenizer, request_of("xcopa_sw", write(tmp_path / "test.jsonl", items)), recorder)
    assert recorder.warnings == []


class TestBos:
    def likelihoods(self, model: Any, tokenizer: Any, folder: Path, bos: str) -> list[float]:
        request = request_of("rte", write(folder / "test.jsonl", ITEMS["rte"]), bos=bos)
        return [
            value
            for row in score(model, tokenizer, request).items.to_pylist()
            for value in row["loglikelihoods"]
        ]

    def test_auto_is_what_the_tokenizer_does_by_itself(
        self, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
    ) -> None:
        auto, none = (self.likelihoods(tiny(), tokenizer, tmp_path, bos) for bos in ("auto", "none"))
        assert auto == none
        tokenizer.add_bos_token = True
        auto, prepend = (self.likelihoods(tiny(), tokenizer, tmp_path, bos) for bos in ("auto", "prepend"))
        assert auto == prepend
        assert none == self.likelihoods(tiny(), tokenizer, tmp_path, "none")

    def test_prepend_puts_a_bos_before_every_prompt(
        self, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
    ) -> None:
        model = tiny()
        text = "It rains 0.\nQuestion: It is wet. True or False?\nAnswer:"
        ids = torch.tensor([[256, *tokenizer.encode(text + " True")]])
        with torch.no_grad():
            expected = model(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[-5:].sum()
        assert self.likelihoods(model, tokenizer, tmp_path, "prepend")[0] == pytest.approx(
            float(expected), abs=1e-4
        )
        assert tokenizer.encode("a")[0] != 256, "the caller's tokenizer is not changed"

    def test_prepend_without_a_bos_is_an_error(
        self, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
    ) -> None:
        tokenizer.bos_token = None
        with pytest.raises(StepError, match="no BOS token to prepend"):
            self.likelihoods(tiny(), tokenizer, tmp_path, "prepend")


class TestChatTemplate:
    def test_prompts_go_through_it(self, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> None:
        tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]"
        model = tiny()
        request = request_of("rte", write(tmp_path / "test.jsonl", ITEMS["rte"]), chat_template=True)
        row = score(model, tokenizer, request).items.to_pylist()[0]
        text = "[user]It rains 0.\nQuestion: It is wet. True or False?\nAnswer:[answer]True"
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            expected = model(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[-4:].sum()
        assert row["loglikelihoods"][0] == pytest.approx(float(expected), abs=1e-4)

    def test_a_tokenizer_without_one_is_an_error(
        self, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
    ) -> None:
        request = request_of("rte", write(tmp_path / "test.jsonl", ITEMS["rte"]), chat_template=True)
        with pytest.raises(StepError, match="no chat template"):
            score(tiny(), tokenizer, request)


OWN = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
"""
GENERATE = (
    OWN
    + """
output_type: generate_until
doc_to_text: "Q: {{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: first, filter: [{function: take_first}]}
  - {name: digits, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}
"""
)
LAST_WORD = (
    OWN
    + """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}, {metric: acc, aggregation: mean, higher_is_better: true}]
"""
)
ROLLING = (
    OWN
    + """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
"""
)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], TaskRequest]:
    """Return a maker of requests for a task of the user's own, with items beside its definition."""

    def make(definition: str) -> TaskRequest:
        write(
            tmp_path / "items.jsonl",
            [{"question": f"What {i}? " * (i + 1), "answer": str(i)} for i in range(5)],
        )
        (tmp_path / "own.yaml").write_text(definition)
        return request_of("own", None, yaml=tmp_path / "own.yaml")

    return make


def test_generated_answers_have_metrics_and_rows_without_likelihoods(
    tiny: Callable[..., Any], tokenizer: Any, own: Callable[[str], TaskRequest], recorder: Any
) -> None:
    scores = score(tiny(), tokenizer, own(GENERATE), recorder, batch_tokens=100)
    assert [(metric.metric, metric.items) for metric in scores.metrics] == [
        ("exact_match", 5),
        ("exact_match,digits", 5),
    ]
    assert scores.items["loglikelihoods"].to_pylist() == [[]] * 5
    assert scores.items["gold"].null_count == scores.items["predicted"].null_count == 5
    assert scores.items["correct"].to_pylist() == [False] * 5
    assert recorder.progressed[-1] == (5, 5, "request")


def test_last_word_tasks_have_one_likelihood_an_item(
    tiny: Callable[..., Any], tokenizer: Any, own: Callable[[str], TaskRequest]
) -> None:
    scores = score(tiny(), tokenizer, own(LAST_WORD))
    likelihoods = [values[0] for values in scores.items["loglikelihoods"].to_pylist()]
    perplexity = next(metric for metric in scores.metrics if metric.metric == "perplexity")
    assert perplexity.value == pytest.approx(float(torch.tensor(likelihoods).double().mean().neg().exp()))
    assert perplexity.stderr == metrics.bootstrap_stderr(metrics.perplexity, likelihoods, iters=1000)
    assert scores.items["gold"].null_count == 5


def test_rolling_tasks_are_scored(
    tiny: Callable[..., Any], tokenizer: Any, own: Callable[[str], TaskRequest], recorder: Any
) -> None:
    scores = score(tiny(), tokenizer, own(ROLLING), recorder)
    assert [metric.metric for metric in scores.metrics] == ["bits_per_byte"]
    assert (scores.metrics[0].value or 0) > 1
    assert recorder.progressed[-1] == (5, 5, "request")


@pytest.mark.real
@pytest.mark.parametrize("trained", ["slm-qwen2-6m", *(["slm-llama-12m"] if THOROUGH else [])])
@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "openbookqa", "winogrande", "rte", "xcopa_sw"])
def test_a_trained_models_scores_are_lm_evals(real: Path, name: str, trained: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real / "models" / trained
    limit = 200 if THOROUGH else 15
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    split = SCORED.get(name, "test")
    test = real / "tasks" / f"{name}_{'validation' if name == 'xcopa_sw' else split}.jsonl"
    scores = score(model, tokenizer, request_of(name, test, limit=limit))
    assert_equal(scores, by_lm_eval(model, tokenizer, name, {split: test}, limit=limit), name)


def test_no_hub_is_asked_for_local_items(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a dataset was asked for")

    monkeypatch.setattr(datasets, "load_dataset", asked)
    score(tiny(), tokenizer, request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"])))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_changed_file_of_the_same_name_and_time_is_read_again(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, suffix: str
) -> None:
    data = tmp_path / f"items.{suffix}"
    definition = LAST_WORD.replace("items.jsonl", data.name).replace(
        "dataset_path: json", f"dataset_path: {suffix.rstrip('l')}"
    )
    (tmp_path / "own.yaml").write_text(definition)
    likelihoods = []
    for answer in (11, 22):
        header, row = (
            ("question,answer\n", f"Why?,{answer}\n")
            if suffix == "csv"
            else ("", json.dumps({"question": "Why?", "answer": answer}))
        )
        data.write_text(header + row)
        os.utime(data, (1_000_000_000, 1_000_000_000))
        likelihoods.append(
            score(tiny(), tokenizer, request_of("own", None, yaml=tmp_path / "own.yaml"))
            .items["loglikelihoods"]
            .to_pylist()
        )
    assert likelihoods[0] != likelihoods[1]


def test_a_changed_local_file_of_the_same_name_and_time_is_read_again(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    results = []
    for items in (ITEMS["rte"][:2], ITEMS["rte"][2:]):
        test = write(tmp_path / "test.jsonl", items)
        os.utime(test, (1_000_000_000, 1_000_000_000))
        results.append(score(tiny(), tokenizer, request_of("rte", test)).items["loglikelihoods"].to_pylist())
    assert results[0] != results[1]


def test_definition_and_items_are_read_where_the_caller_watches_the_files(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, recorder: Any
) -> None:
    test = write(tmp_path / "test.jsonl", ITEMS["rte"])
    answered: list[int] = []

    @contextmanager
    def reading() -> Iterator[None]:
        yield
        answered.append(len(recorder.progressed))
        test.unlink()

    score_task(
        tiny(),
        tokenizer,
        request_of("rte", test),
        batch_tokens=512,
        reporter=recorder,
        reading=reading(),
    )
    assert answered == [0]
    assert recorder.progressed

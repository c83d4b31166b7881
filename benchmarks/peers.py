"""studyctl's engine against the packages people use: same model, calibration ids, threads and machine, in turns (A B, then B A).

Each run is a process of its own, timed and measured by the same driver: seconds and peak memory of the compression alone, without
imports, loading and saving. KL to dense is that of the weights that each gave, on held-out text in seven languages.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.compression import SHAPES, random_case
from benchmarks.estimates import REAL
from benchmarks.page import note, table
from benchmarks.tasks import MODEL as SMOLLM2
from benchmarks.timing import in_turns
from studyctl.backends import OWN
from studyctl.backends.catalog import BACKENDS, effective, refusals, runs_on
from studyctl.backends.environments import environment
from studyctl.backends.exchange import call_driver
from studyctl.backends.tiny_model import write_tokenizer
from studyctl.contract.limits import batch_tokens
from studyctl.contract.methods import METHODS, MethodSettings
from studyctl.evaluate.text.reference import open_reference
from studyctl.evaluate.text.score import BatchScores, score_windows
from studyctl.evaluate.text.windows import Windows
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import LoadedModel, bos_id, load_model
from studyctl.sources.text_files import identify_text
from studyctl.sources.tokens import perplexity_windows
from studyctl.spec.models import BUNDLED_LANGUAGES, Model
from studyctl.work.backend import expected_nll, hand_over

THREADS = 2
WINDOW_TOKENS = 128
WINDOWS = 4
"""Of each language."""
GROUPED: dict[str, Any] = {"bits": 4, "group_size": 64}
RACES: tuple[dict[str, Any], ...] = (
    {"method": "wanda", "sparsity": 0.5},
    {"method": "sparsegpt", "sparsity": 0.5},
    {"method": "gptq", **GROUPED},
    {"method": "awq", **GROUPED},
)
GOALS = {"awq": 20.0, "gptq": 2.0, "sparsegpt": 2.0, "wanda": 1.3}
HEADER = ("model", "method", "by", "seconds", "studyctl faster", "peak memory", "KL to dense, nats")


@dataclass
class Runner:
    """Who compresses, and what it measured."""

    name: str
    python: Path
    adapter: Path
    peaks: list[int] = field(default_factory=list)
    kl: float | None = None


class Course(NamedTuple):
    """A model with its calibration, and which methods run on it."""

    label: str
    loaded: LoadedModel
    ids: np.ndarray
    methods: Sequence[str]
    rounds: int
    held_out: bool
    """Whether KL is measured: a random block says nothing."""


def main() -> None:
    torch.set_num_threads(THREADS)
    rows = [row for course in _courses() for row in _race_all(course)]
    table(HEADER, rows)
    goals = ", ".join(f"{name} {goal:g} ×" for name, goal in GOALS.items())
    note(
        f"fp32, {THREADS} threads, rounds in turns, medians (least and most); peak: the largest resident memory of the "
        f"process while it compressed; goals: {goals} as fast as the fastest package, and no more memory than the leanest"
    )


def _courses() -> Iterator[Course]:
    if REAL.is_dir():
        name = "slm-llama-12m"
        loaded = _load(str(REAL / "models" / name))
        ids = np.load(REAL / "reference" / f"{name}-64x512.npy")
        yield Course(f"{name}, {len(ids)} × {ids.shape[1]}", loaded, ids, list(GOALS), 2, held_out=True)
        ids = np.load(REAL / "reference" / "smollm2-135m-16x512.npy")[:4]
        yield Course(f"SmolLM2-135M, 4 × {ids.shape[1]}", _load(SMOLLM2), ids, list(GOALS), 1, held_out=True)
    else:
        note(f"no real models at {REAL} (STUDYCTL_REAL moves it): random blocks only")
    for shape in SHAPES:
        case = random_case(shape)
        with TemporaryDirectory() as folder:
            case.model.save_pretrained(folder)
            write_tokenizer(Path(folder), case.model.config.vocab_size)
            ids = case.ids.reshape(-1, 512)[:8].numpy()
            label = f"a block, hidden {shape.hidden}, 8 × 512"
            yield Course(label, _load(folder), ids, ("wanda", "sparsegpt", "gptq"), 2, held_out=False)


def _load(model: str) -> LoadedModel:
    return load_model(identify_model(Model(id=model), Path.cwd()), dtype="float32", device="cpu")


def _race_all(course: Course) -> Iterator[tuple[str, ...]]:
    windows = list(_windows(course.loaded)) if course.held_out else []
    dense = {name: value.clone() for name, value in course.loaded.model.state_dict().items()}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        hand_over(course.loaded, folder / "model")
        np.save(folder / "ids.npy", course.ids.astype(np.int32))
        for index, one in enumerate(windows):
            _score(course.loaded.model, one, keep=folder / f"{index}.safetensors")
        for race in RACES:
            if race["method"] in course.methods:
                yield from _race(
                    course, METHODS[race["method"]].settings.model_validate(race), folder, windows
                )
                course.loaded.model.load_state_dict(dense)


def _race(
    course: Course, settings: MethodSettings, folder: Path, windows: Sequence[Windows]
) -> Iterator[tuple[str, ...]]:
    """Run every backend that has the method, in turns, and yield a row of each."""
    runners = _runners(settings)
    expected = expected_nll(course.loaded, course.ids)

    def run(runner: Runner) -> float:
        with TemporaryDirectory() as out:
            seconds, peak = _call(runner, settings, folder, Path(out), expected)
            runner.peaks.append(peak)
            if runner.kl is None and windows:
                weights = load_file(Path(out) / "out" / "plain.safetensors")
                runner.kl = _kl(course.loaded.model, weights, windows, folder)
        return seconds

    timings = in_turns({one.name: lambda one=one: run(one) for one in runners}, course.rounds)  # type: ignore[misc]
    ours = timings[OWN].median
    for runner in runners:
        timing = timings[runner.name]
        yield (
            course.label,
            str(settings.method),
            runner.name,
            str(timing),
            "" if runner.name == OWN else f"{timing.median / ours:.2f} ×",
            f"{median(runner.peaks) / (1 << 20):.0f} MiB",
            f"{runner.kl:.5f}" if runner.kl is not None else "",
        )
    sys.stdout.flush()


def _runners(settings: MethodSettings) -> list[Runner]:
    runners = [Runner(OWN, Path(sys.executable), Path(__file__).with_name("own_adapter.py"))]
    for name, backend in BACKENDS.items():
        there = environment(backend)
        has = settings.method in backend.abilities and not refusals(name, effective(name, settings))
        if not has or not runs_on(name, settings, "cpu"):
            continue
        if there.state == "synced":
            runners.append(Runner(name, there.python, backend.adapter))
        else:
            note(f"{name} is left out: `studyctl backends sync {name}`")
    return runners


def _call(
    runner: Runner, settings: MethodSettings, folder: Path, out: Path, expected: Mapping[str, Any]
) -> tuple[float, int]:
    options = settings if runner.name == OWN else effective(runner.name, settings)
    task = {
        "model": str(folder / "model"),
        "ids": str(folder / "ids.npy"),
        "method": settings.method,
        "options": options.model_dump(mode="json"),
        "dtype": "float32",
        "device": "cpu",
        "threads": THREADS,
        "out": str(out / "out"),
        "network": False,
        "dense": expected,
    }
    outcome = call_driver(runner.python, runner.adapter, task, log=folder / f"{runner.name}.log")
    if outcome.failure is not None:
        raise RuntimeError(f"{runner.name}: {outcome.failure}")
    return outcome.seconds, outcome.peak_memory_bytes


def _windows(loaded: LoadedModel) -> Iterator[Windows]:
    for language in BUNDLED_LANGUAGES:
        identity = identify_text("pocket", None, "perplexity", language, Path.cwd())
        bos = bos_id(loaded.tokenizer, "auto", loaded.identity.id)
        yield perplexity_windows(
            identity, loaded.tokenizer, sequence_length=WINDOW_TOKENS, count=WINDOWS, bos_id=bos
        )


def _score(
    model: torch.nn.Module, windows: Windows, *, keep: Path | None = None, against: Path | None = None
) -> BatchScores:
    return score_windows(
        model,
        windows,
        language="",
        reference=open_reference(against) if against else None,
        keep=keep,
        metrics=("kl",),
        batch_tokens=batch_tokens("cpu"),
        reporter=SilentReporter(),
    )


def _kl(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], windows: Sequence[Windows], folder: Path
) -> float:
    """Return the mean over languages of KL(dense || these weights), in nats."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            if name in own:
                own[name].copy_(value)
    means = []
    for index, one in enumerate(windows):
        scores = _score(model, one, against=folder / f"{index}.safetensors")
        kl = sum(window.kl_nats or 0 for window in scores.windows)
        means.append(kl / (len(one) * one.scored_tokens))
    return float(sum(means) / len(means))

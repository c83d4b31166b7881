"""The results of a study as rows, for reports and the terminal app, which need no SQL and no arithmetic on metrics."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import duckdb

from studyctl.contract.hypotheses import Alternative, Level, Metric, PlannedHypothesis, Verdict
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store.comparison import Agreement, Disagreement, ParetoPoint, Rank
from studyctl.store.query import Content, fetch, open_database, other_tables, unreadable
from studyctl.store.schema import definitions

if TYPE_CHECKING:
    import pyarrow as pa

    from studyctl.store.contrast import Contrast

_Row = TypeVar("_Row", bound=NamedTuple)


class About(NamedTuple):
    """The study as a whole; columns of the table ``about``."""

    study: str
    title: str
    notes: list[str]
    spec_hash: str
    planned_at: datetime | None
    published_at: datetime
    studyctl: str


class Standing(NamedTuple):
    """A row of the view ``leaderboard``."""

    trial_id: str
    model: str
    method: str
    variant: str
    seed: int | None
    state: str
    bits_per_weight: float | None
    size_mib: float | None
    sparsity: float | None
    ppl_ratio: float | None
    ppl_ratio_low: float | None
    ppl_ratio_high: float | None
    bits_per_byte_change: float | None
    bits_per_byte_change_low: float | None
    bits_per_byte_change_high: float | None
    bits_per_character_change: float | None
    bits_per_character_change_low: float | None
    bits_per_character_change_high: float | None
    worst_language: str | None
    worst_bits_per_byte_change: float | None
    worst_ppl_ratio: float | None
    languages: int | None
    languages_known: int | None
    kl_nats: float | None
    kl_nats_low: float | None
    kl_nats_high: float | None
    kl_nats_per_byte: float | None
    kl_nats_per_byte_low: float | None
    kl_nats_per_byte_high: float | None
    top1: float | None
    acc: float | None
    acc_change: float | None
    acc_change_low: float | None
    acc_change_high: float | None
    tasks: int | None
    acc_above_chance: float | None
    acc_change_above_chance: float | None
    acc_change_above_chance_low: float | None
    acc_change_above_chance_high: float | None
    tasks_above_chance: int | None
    flips: int | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    compress_seconds: float | None
    total_seconds: float | None
    peak_memory_bytes: int | None
    peak_device_bytes: int | None
    file_mib: float | None
    embedding_share: float | None
    why_no_file: str | None

    @property
    def mib(self) -> float | None:
        """MiB of the GGUF file, or of the weights as stored where there is none."""
        return self.size_mib if self.file_mib is None else self.file_mib

    @property
    def is_measured(self) -> bool:
        """Whether it has a figure of quality, by which it is compared with others."""
        return (self.ppl_ratio, self.bits_per_byte_change, self.acc) != (None, None, None)


class Size(StrEnum):
    """By which size the trials of a model are compared."""

    FILE = "file_mib"
    STORED = "size_mib"
    BITS = "bits_per_weight"

    def of(self, trial: Standing) -> float | None:
        """Return the size of a trial."""
        size: float | None = getattr(trial, self)
        return size


def size_of(trials: Iterable[Standing]) -> Size:
    """Return the size that all measured trials of a model have, as the view ``pareto`` chooses it: sizes of two kinds are not compared."""
    measured = [trial for trial in trials if trial.is_measured]
    for size in (Size.FILE, Size.STORED):
        if measured and all(size.of(trial) is not None for trial in measured):
            return size
    return Size.BITS


class TrialRow(NamedTuple):
    """A row of the table ``trials``: how far a trial has come."""

    trial_id: str
    model: str
    method: str
    variant: str
    state: str
    stages: int
    stages_done: int
    attempts: int
    stage: str | None
    error: str | None


class LanguageResult(NamedTuple):
    """A row of the view ``perplexity_vs_dense``."""

    trial_id: str
    model: str
    method: str
    variant: str
    language: str
    perplexity: float | None
    dense_perplexity: float | None
    ppl_ratio: float | None
    ppl_ratio_low: float | None
    ppl_ratio_high: float | None
    bits_per_byte: float | None
    dense_bits_per_byte: float | None
    bits_per_byte_change: float | None
    bits_per_byte_change_low: float | None
    bits_per_byte_change_high: float | None
    bits_per_character: float | None
    dense_bits_per_character: float | None
    bits_per_character_change: float | None
    bits_per_character_change_low: float | None
    bits_per_character_change_high: float | None
    dense_knows: bool | None
    kl_nats: float | None
    kl_nats_low: float | None
    kl_nats_high: float | None
    kl_nats_per_byte: float | None
    kl_nats_per_byte_low: float | None
    kl_nats_per_byte_high: float | None
    top1: float | None


class TaskResult(NamedTuple):
    """A row of the view ``tasks_vs_dense``."""

    trial_id: str
    model: str
    method: str
    variant: str
    task: str
    metric: str
    main: bool | None
    averaged: bool | None
    value: float | None
    stderr: float | None
    dense_value: float | None
    change: float | None
    change_low: float | None
    change_high: float | None
    items: int | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    mcnemar_p: float | None
    chance: float | None
    above_chance: bool | None
    language: str | None

    @property
    def label(self) -> str:
        """The task with its language, where that is stored."""
        return self.task if self.language is None else f"{self.task} ({self.language})"

    @property
    def flips(self) -> int | None:
        """Items that flipped against dense."""
        if self.right_to_wrong is None or self.wrong_to_right is None:
            return None
        return self.right_to_wrong + self.wrong_to_right

    @property
    def significant(self) -> bool:
        """Whether the change against dense is unlikely to be chance (p < 0.05)."""
        return self.mcnemar_p is not None and self.mcnemar_p < 0.05


class Flip(NamedTuple):
    """A row of the view ``flips``: an item that dense answers right and a variant wrong, or the reverse."""

    task: str
    item: int
    direction: str
    gold: int | None
    dense_predicted: int | None
    predicted: int | None
    dense_loglikelihoods: list[float] | None
    loglikelihoods: list[float] | None
    prompt: str | None
    """None: the study does not keep the texts of this task."""
    choices: list[str] | None
    right_answer: str | None
    dense_answer: str | None
    answer: str | None


class ModelProgress(NamedTuple):
    """A row of the view ``progress``."""

    model: str
    trials: int
    done: int
    running: int
    failed: int
    stopped: int
    pending: int
    stages: int
    stages_done: int
    total_seconds: float | None


class FailedTrial(NamedTuple):
    """A row of the view ``failures``."""

    trial_id: str
    model: str
    method: str
    variant: str
    stage: str | None
    cause: str | None
    error: str | None
    hint: str | None
    attempts: int


class Finding(NamedTuple):
    """A row of the table ``warnings``."""

    trial_id: str
    model: str
    method: str
    variant: str
    stage: str | None
    message: str
    attempt: int | None
    details: str | None
    """Further fields, as JSON."""


class VariantRow(NamedTuple):
    """A variant, from the table ``trials``."""

    variant: str
    method: str
    options: str
    """Settings of the method, as JSON."""


class HypothesisResult(NamedTuple):
    """A row of the table ``hypotheses``."""

    name: str
    claim: str
    metric: str
    family: str
    alternative: str | None
    """None for an order of variants."""
    generalize: str
    margin: float | None
    declared: datetime | None
    confirmatory: bool | None
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    verdict: str
    reason: str | None
    units: int | None
    languages: int | None
    models: int | None
    models_holding: int | None
    needed_windows: int | None
    needed_languages: int | None
    needed_models: int | None
    calibration_draws: int | None
    notes: list[str]


class HypothesisRow(NamedTuple):
    """A row of the table ``hypothesis_rows``."""

    hypothesis: str
    kind: str
    subject: str
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    verdict: str | None
    reason: str | None
    units: int | None


class HypothesisTrial(NamedTuple):
    """A row of the table ``hypothesis_pairs``."""

    hypothesis: str
    pair: int
    side: str
    trial_id: str
    model: str
    method: str
    variant: str
    compared: bool
    reason: str | None


class Reversal(NamedTuple):
    """A row of the table ``reversals``."""

    hypothesis: str
    variant: str
    other_variant: str
    metric: str
    difference: float
    p: float
    other_metric: str
    other_difference: float
    other_p: float
    p_adjusted: float


class StepRow(NamedTuple):
    """A row of the table ``steps``."""

    kind: str
    subject: str | None
    peak_memory_bytes: int | None


class Setting(NamedTuple):
    """How a variant is made; columns of the table ``trials`` that are the same for all models."""

    method: str
    variant: str
    backend: str | None
    backend_version: str | None
    options: str | None
    """JSON."""
    calibration: str | None
    """JSON."""


class TextProtocol(NamedTuple):
    """How a language is measured; columns of the table ``perplexity``."""

    language: str
    windows: int | None
    sequence_length: int | None
    bos: bool | None


class TaskProtocol(NamedTuple):
    """How a task is measured; columns of the table ``tasks``."""

    task: str
    language: str | None
    metric: str
    shots: int | None
    items: int | None


class Environment(NamedTuple):
    """What attempts ran with; columns of the table ``attempts``."""

    studyctl: str | None
    versions: str | None
    """JSON: versions by package."""
    device: str | None
    device_kind: str | None
    dtype: str | None


class FlippedItem(NamedTuple):
    """An item that a variant answers otherwise than dense, with its text where that is kept, from the view ``flips``."""

    trial_id: str
    task: str
    item: int
    direction: str
    gold: int | None
    dense_predicted: int | None
    predicted: int | None
    prompt: str | None
    choices: list[str] | None
    right_answer: str | None
    dense_answer: str | None
    answer: str | None


class Deployed(NamedTuple):
    """A row of the view ``deployment``: a trial's file, and how fast it is on one machine with so many threads."""

    trial_id: str
    model: str
    method: str
    variant: str
    file_mib: float | None
    embedding_share: float | None
    why_no_file: str | None
    kl_nats: float | None
    runtime_kl_nats: float | None
    same_windows_kl_nats: float | None
    acc: float | None
    acc_change: float | None
    cpu: str | None
    """None: it was not timed."""
    host: str | None
    runtime: str | None
    build: str | None
    threads: int | None
    prompt: int | None
    generate: int | None
    rounds: int | None
    load_seconds: float | None
    resident_mib: float | None
    prefill_rate: float | None
    prefill_ratio: float | None
    prefill_low: float | None
    prefill_high: float | None
    prefill_verdict: str | None
    prefill_itself_low: float | None
    prefill_itself_high: float | None
    decode_rate: float | None
    decode_ratio: float | None
    decode_low: float | None
    decode_high: float | None
    decode_verdict: str | None
    decode_itself_low: float | None
    decode_itself_high: float | None
    why_no_speed: str | None
    timed_at: datetime | None
    llama_cpp: str | None
    transformers: str | None
    vllm_gpu: str | None
    vllm_cpu: str | None

    @property
    def machine(self) -> tuple[object, ...]:
        """Return what tells the figures of one machine and setting from others."""
        return self.cpu, self.runtime, self.build, self.prompt, self.generate, self.threads


class LayerResult(NamedTuple):
    """A row of the table ``layers``."""

    block: int
    linear: str
    relative_error: float | None
    sparsity: float | None
    bits_per_weight: float | None
    seconds: float | None
    damping: float | None


class Results(AbstractContextManager["Results"]):
    """The results of one publication. Close it after use."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rows_of: StudyPaths | None = None) -> None:
        """Take a connection that has all tables and views, or only the rows of a study's file."""
        self._connection, self._rows_of = connection, rows_of
        self._undefined = definitions() if rows_of is not None else {}
        """Statements that define tables and views, by name: one takes milliseconds, so only what is used is defined."""

    def about(self) -> About:
        """Return the study as a whole."""
        return self._rows(About, "about")[0]

    def leaderboard(self, model: str | None = None) -> list[Standing]:
        """Return one row per trial, in the order of the plan; of one model if it is named."""
        return self._rows(Standing, "leaderboard", model=model)

    def standing(self, trial_id: str) -> Standing:
        """Return the row of a trial.

        Raises:
            StudyError: it was not planned yet when the results were published.
        """
        for row in self._rows(Standing, "leaderboard", trial_id=trial_id):
            return row
        raise StudyError(f"nothing is published of trial `{trial_id}`", hint="run the study")

    def top(self, count: int) -> list[Standing]:
        """Return the first rows of :meth:`leaderboard`."""
        return self._rows(Standing, "leaderboard", f" LIMIT {count:d}")

    def trials(self) -> list[TrialRow]:
        """Return one row per trial, in the order of the plan."""
        return self._rows(TrialRow, "trials", " ORDER BY position")

    def perplexity(self, trial_id: str | None = None, *, model: str | None = None) -> list[LanguageResult]:
        """Return one row per trial and language; of one trial or model if it is named."""
        return self._rows(LanguageResult, "perplexity_vs_dense", trial_id=trial_id, model=model)

    def tasks(self, trial_id: str | None = None, *, model: str | None = None) -> list[TaskResult]:
        """Return one row per trial, task and metric; of one trial or model if it is named."""
        return self._rows(TaskResult, "tasks_vs_dense", trial_id=trial_id, model=model)

    def flips(self, trial_id: str, task: str | None = None) -> list[Flip]:
        """Return the items that flipped against dense, what turned wrong first; of one task if it is named."""
        return self._rows(Flip, "flips", " ORDER BY task, direction, item", trial_id=trial_id, task=task)

    def ranks(self, model: str | None = None) -> list[Rank]:
        """Return one row per compressed trial and metric, the best first; of one model if it is named."""
        return self._rows(Rank, "ranks", model=model)

    def disagreement(self, model: str | None = None) -> list[Disagreement]:
        """Return one row per model and pair of metrics, in both orders; of one model if it is named."""
        return self._rows(Disagreement, "disagreement", model=model)

    def agreement(self, model: str | None = None) -> list[Agreement]:
        """Return the trials whose setting several backends compress, by setting, studyctl's first; of one model if it is named."""
        return self._rows(Agreement, "agreement", model=model)

    def pareto(self, model: str | None = None) -> list[ParetoPoint]:
        """Return the trials on the Pareto front of size and quality, the smallest first."""
        return self._rows(ParetoPoint, "pareto", model=model)

    def deployment(self, model: str | None = None) -> list[Deployed]:
        """Return the file of each trial, once for each machine and number of threads that it was timed with."""
        return self._rows(Deployed, "deployment", model=model)

    def progress(self) -> list[ModelProgress]:
        """Return one row per model."""
        return self._rows(ModelProgress, "progress")

    def failures(self) -> list[FailedTrial]:
        """Return the failed trials, in the order of the plan."""
        return self._rows(FailedTrial, "failures")

    def warnings(self, trial_id: str | None = None) -> list[Finding]:
        """Return the warnings; of one trial if it is named."""
        return self._rows(Finding, "warnings", trial_id=trial_id)

    def newest_warnings(self, count: int) -> list[Finding]:
        """Return the warnings that came last, the newest first."""
        return self._rows(Finding, "warnings", f' ORDER BY "at" DESC LIMIT {count:d}')

    def steps(self, trial_id: str) -> list[StepRow]:
        """Return the steps of one trial."""
        return self._rows(StepRow, "steps", trial_id=trial_id)

    def layers(self, trial_id: str) -> list[LayerResult]:
        """Return the compressed linears of one trial."""
        return self._rows(LayerResult, "layers", trial_id=trial_id)

    def hypotheses(self) -> list[HypothesisResult]:
        """Return the hypotheses of the spec with their verdicts, in its order.

        Raises:
            StudyError: the file holds a metric, a claim or a verdict that this version does not have.
        """
        rows = self._rows(HypothesisResult, "hypotheses", ' ORDER BY "position"')
        with _as_this_version_has("hypotheses"):
            for row in rows:
                if row.alternative is not None:
                    Alternative(row.alternative)
                for metric in row.metric.split(", "):
                    Metric.parse(metric)
            return [
                row._replace(verdict=Verdict(row.verdict), generalize=Level(row.generalize)) for row in rows
            ]

    def hypothesis_rows(self, hypothesis: str | None = None) -> list[HypothesisRow]:
        """Return the parts of the hypotheses; of one if it is named.

        Raises:
            StudyError: the file holds a verdict that this version does not have.
        """
        rows = self._rows(HypothesisRow, "hypothesis_rows", hypothesis=hypothesis)
        with _as_this_version_has("hypothesis_rows"):
            return [row._replace(verdict=Verdict(row.verdict)) if row.verdict else row for row in rows]

    def hypothesis_pairs(self, hypothesis: str | None = None) -> list[HypothesisTrial]:
        """Return which trials were compared; of one hypothesis if it is named."""
        return self._rows(HypothesisTrial, "hypothesis_pairs", hypothesis=hypothesis)

    def reversals(self, hypothesis: str | None = None) -> list[Reversal]:
        """Return the pairs of variants that two metrics surely put in opposite orders; of one hypothesis if it is named."""
        return self._rows(Reversal, "reversals", hypothesis=hypothesis)

    def settings(self) -> list[Setting]:
        """Return how each variant is made, in the order of the plan; dense is none."""
        return self._rows(Setting, "trials", " WHERE variant <> 'dense' GROUP BY ALL ORDER BY min(position)")

    def text_protocols(self) -> list[TextProtocol]:
        """Return how each language was measured, by name; several rows, if models differ."""
        return self._rows(TextProtocol, "perplexity", " GROUP BY ALL ORDER BY ALL")

    def task_protocols(self) -> list[TaskProtocol]:
        """Return how each task was measured, by its main metric, by name; several rows, if models differ."""
        return self._rows(TaskProtocol, "tasks", " WHERE main GROUP BY ALL ORDER BY ALL")

    def environments(self) -> list[Environment]:
        """Return what the attempts of current trials ran with, each once."""
        return self._rows(Environment, "attempts", " WHERE current GROUP BY ALL ORDER BY ALL")

    def flipped_items(self, count: int) -> list[FlippedItem]:
        """Return items that flipped against dense, at most so many, those of an item together."""
        return self._rows(FlippedItem, "flips", f" ORDER BY task, item, trial_id LIMIT {count:d}")

    def contrast(self, model: str, left: str, right: str) -> "Contrast | None":
        """Return how many bits per byte one trial of a model needs more than another; None: too few windows of both."""
        from studyctl.store.contrast import contrast  # scipy, which takes time and memory

        with self._reading("windows", "items"):
            return contrast(self._connection, model, left, right)

    def compare(
        self, hypotheses: Sequence[PlannedHypothesis]
    ) -> tuple[list[HypothesisResult], list[HypothesisRow]]:
        """Return verdicts on hypotheses that are not in the spec, and their parts."""
        from studyctl.findings.tables import tables

        with self._reading("trials", "steps", "windows", "items", "tasks", "task_chance"):
            rows = tables(self._connection, hypotheses, {})
        return (
            [
                HypothesisResult._make(row[name] for name in HypothesisResult._fields)
                for row in rows["hypotheses"]
            ],
            [HypothesisRow(**row) for row in rows["hypothesis_rows"]],
        )

    def variants(self) -> list[VariantRow]:
        """Return each compressed variant once, with the settings of its method."""
        trials = self._rows(VariantRow, "trials", " ORDER BY position")
        return list({row.variant: row for row in trials}.values())

    def ask(self, sql: str) -> "pa.Table":
        """Return the rows of a query; of several statements, those of the last. Ctrl-C ends it.

        Raises:
            StudyError: the query is wrong, or its rows take more than :data:`~studyctl.store.query.LARGEST_ANSWER`.
        """
        from studyctl.store.interrupts import hear_interrupts  # takes time to import

        self.define()
        return hear_interrupts(self._connection, partial(fetch, self._connection, sql))

    def define(self) -> None:
        """Define all tables and views now, and not when they are asked for.

        Raises:
            StudyError: the file has not their columns.
        """
        with self._reading():
            for name in list(self._undefined):
                self._connection.execute(self._undefined[name])
                del self._undefined[name]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, row: type[_Row], source: str, rest: str = "", **equal: str | None) -> list[_Row]:
        columns = ", ".join(f'"{name}"' for name in row._fields)
        values = {name: value for name, value in equal.items() if value is not None}
        where = " WHERE " + " AND ".join(f"{name} = ?" for name in values) if values else ""
        with self._reading(source):
            query = f"SELECT {columns} FROM {source}{where}{rest}"
            return list(map(row._make, self._connection.execute(query, list(values.values())).fetchall()))

    @contextmanager
    def _reading(self, *sources: str) -> Iterator[None]:
        """Define the tables and views that are read, and turn DuckDB's errors into those of the study's file."""
        try:
            for source in sources:
                for name, statement in definitions(source).items() if source in self._undefined else ():
                    if self._undefined.pop(name, None):
                        self._connection.execute(statement)
            yield
        except duckdb.Error as error:
            if self._rows_of is None:
                raise
            raise StudyError(unreadable(self._rows_of, error)) from error


@contextmanager
def _as_this_version_has(table: str) -> Iterator[None]:
    """Turn the error of a value that no enumeration has into a problem of the study's file."""
    try:
        yield
    except ValueError as error:
        raise StudyError(
            f"the table `{table}` holds a value that this version does not have: {error}",
            hint="`studyctl db rebuild` makes it again from the journals",
        ) from error


def open(paths: StudyPaths) -> Results:
    """Open the results of the last publication.

    Raises:
        StudyError: nothing is published yet, or by a version of studyctl with other tables.
    """
    connection, content = open_database(paths)
    if content is Content.OTHER:
        connection.close()
        raise StudyError(other_tables(paths, "something else"))
    return Results(connection, paths if content is Content.ROWS else None)

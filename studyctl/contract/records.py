"""The records of a journal. A worker writes them; the publisher, the live view and the runner read them.

One JSON object per line, ``kind`` first. ``seq`` (from 0), ``at`` (UTC, ISO 8601), ``trial`` and ``attempt`` are filled in by
the writer. NaN and infinity do not exist in JSON: they are written as ``null`` and read as None.
"""

from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from studyctl.contract.steps import Step
from studyctl.errors import FailureCause, ProblemCode

SCHEMA = 2
"""Rises when older readers would misread the records."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="kind"):
    """The fields that all records have."""

    seq: int = -1
    at: str = ""
    trial: str = ""
    attempt: int = -1


class AttemptStarted(Record, tag="attempt_started"):
    """An attempt begins: what is run, where, with which versions."""

    schema: int
    studyctl: str
    model: str
    method: str
    variant: str
    weights_key: str
    study: str = ""
    host: str = ""
    pid: int | None = None
    python: str = ""
    versions: dict[str, str] = {}
    backend: str | None = None
    backend_version: str | None = None
    model_key: str | None = None
    settings: dict[str, Any] = {}
    calibration: dict[str, Any] | None = None
    seed: int | None = None
    device: str | None = None
    device_kind: str | None = None
    dtype: str | None = None
    threads: int | None = None
    spec_hash: str | None = None


class AttemptFinished(Record, tag="attempt_finished"):
    """How an attempt ended. Of a worker that is gone, the runner writes it into a journal of its own; if both are, it is missing."""

    state: str
    """``done``, ``failed`` or ``stopped``."""
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


class StepStarted(Record, tag="step_started"):
    """A step begins, or begins again with smaller batches."""

    step: Step


class StepFinished(Record, tag="step_finished"):
    """A step is complete: the records since its start count as results from now on."""

    step: Step
    weights_key: str | None = None
    weights_hash: str | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    bits_per_weight: float | None = None
    """Of ``compress``."""
    sparsity: float | None = None
    """Of ``compress``, 0 to 1."""
    available: int | None = None
    """Of a text: windows that the whole text has; None: its end is unknown."""
    measured: int | None = None
    """Of a text: windows of the language to be measured in total; the batch that ends there is the last."""
    exported: "ExportFacts | None" = None
    """Of ``export``."""
    file: "FileFacts | None" = None
    """Of ``compress`` and ``deploy``, and of the dense model's ``load``; None: written before 0.3."""

    @property
    def is_last(self) -> bool:
        """Return whether this completes the whole step; other batches of windows may follow."""
        windows = self.step.windows
        return windows is None or (self.measured is not None and windows[1] >= self.measured)


class ExportFacts(msgspec.Struct, omit_defaults=True):
    """Facts about an exported folder."""

    folder: str
    format: str
    weight_bytes: int
    stored_bits_per_weight: float
    model_bits_per_weight: float
    packed_bits: int | None = None
    why_plain: str = ""
    notes: list[str] = []
    """What the user should know about it."""


class FileFacts(msgspec.Struct, omit_defaults=True):
    """Facts about the GGUF file that a trial would be exported to."""

    bytes: int | None = None
    """None: there can be none."""
    vocabulary_bytes: int | None = None
    """Of the matrices over the vocabulary."""
    why_none: str = ""


class StepFailed(Record, tag="step_failed"):
    """A step ended without a result."""

    step: Step
    error: str
    cause: FailureCause = FailureCause.ERROR
    code: ProblemCode = ProblemCode.OTHER
    hint: str = ""
    permanent: bool = False
    """Whether another attempt would fail in the same way."""


class Progress(Record, tag="progress"):
    """Progress of the running step."""

    step: Step
    done: float
    total: float
    unit: str
    note: str = ""
    device_bytes: int | None = None
    """Memory that torch holds on the GPU at that moment; None on a CPU."""


class Warned(Record, tag="warning"):
    """Something that a reader of the results must know."""

    step: Step
    message: str
    details: dict[str, Any] = {}


class Layer(Record, tag="layer"):
    """A compressed linear."""

    block: int
    linear: str
    relative_error: float | None = None
    sparsity: float | None = None
    bits_per_weight: float | None = None
    seconds: float | None = None
    weights: int | None = None
    damping: float | None = None


class Window(Record, tag="window"):
    """A window of a text. Sums are over its scored tokens."""

    language: str
    window: int
    """Its place in the text, from 0."""
    nll_nats: float | None
    tokens: int
    bytes: int | None = None
    """UTF-8 bytes of these tokens."""
    characters: int | None = None
    document: int | None = None
    """Document in which it begins, from 0."""
    kl_nats: float | None = None
    top1: int | None = None
    """Tokens for which both models predict the same most likely token."""
    signal: float | None = None
    """Energy of the dense model's logits, mean-centred per token."""
    noise: float | None = None
    """Energy of the difference of both models' logits, mean-centred likewise."""


class TextBatch(Record, tag="text_batch"):
    """Data of a batch of windows as a whole."""

    language: str
    sequence_length: int
    bos: bool
    kl_counts: dict[int, int] | None = None
    """See :mod:`studyctl.contract.kl_counts`; None where KL was not asked for."""
    bzip2_bits_per_byte: float | None = None
    """What bzip2 needs for the text, which no model of a language should exceed; None: written before 0.3."""


class BlockDistance(Record, tag="block_distance"):
    """Distance to dense of the hidden state after a decoder block. Sums are over ``tokens`` and all channels."""

    language: str
    block: int
    """From 0."""
    tokens: int
    signal: float
    """Energy of the dense model's states."""
    noise: float
    """Energy of the difference of both models' states."""


class RuntimeDistance(Record, tag="runtime_distance"):
    """Distance to dense of the logits that the runtime computes of the trial's file, over the first windows of a language."""

    language: str
    windows: int
    tokens: int
    """Scored tokens of these windows."""
    kl_nats: float | None
    """Summed over them."""


class TaskFigure(Record, tag="task"):
    """A metric of a task."""

    task: str
    metric: str
    value: float | None
    stderr: float | None = None
    items: int | None = None
    main: bool | None = None
    """Whether it is the task's main metric; None: written before 0.2."""
    averaged: bool = False
    """Whether it enters means over tasks: it is a fraction of right answers, or the like."""
    shots: int | None = None
    limit: int | None = None
    """The first n items; 0: all."""


class Items(Record, tag="item"):
    """A Parquet part that holds the item rows of a task."""

    task: str
    part: str
    rows: int
    texts: str = ""
    """File with the texts of these items; empty: there is none."""


class ChunkResults(Record, tag="chunks"):
    """Finished chunks of an unfinished task. They are kept in a file of their own, not in a journal."""

    plan: str
    chunks: dict[int, Any]
    seconds: float


class TextTotals(Record, tag="perplexity"):
    """Figures of a language: computed from its windows on reading; versions before 0.2 wrote them."""

    language: str
    perplexity: float | None = None
    bits_per_byte: float | None = None
    bits_per_character: float | None = None
    nll_nats: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    characters: int | None = None
    sequence_length: int | None = None
    bos: bool | None = None
    windows: int | None = None
    bzip2_bits_per_byte: float | None = None


class FidelityTotals(Record, tag="fidelity"):
    """Distance to dense in a language: computed from its windows on reading; versions before 0.2 wrote it."""

    language: str
    kl_nats: float | None = None
    kl_p95_nats: float | None = None
    top1: float | None = None
    snr_db: float | None = None
    tokens: int | None = None


class HypothesisDeclared(Record, tag="hypothesis"):
    """A run recorded a hypothesis of its spec; of the study's journal of hypotheses."""

    name: str
    hash: str
    """Of the hypothesis and of the variants that it compares."""


class Noted(Record, tag="noted"):
    """Somebody wrote a note about a trial; of the study's journal of notes."""

    about: str
    """The trial."""
    text: str
    """Empty: the note before is taken away."""
    by: str
    """Name of the user."""


class SpeedStarted(Record, tag="speed_started"):
    """A session begins, in which the files of a model are timed: each in a process of its own, in rounds, dense twice."""

    schema: int
    studyctl: str
    model: str
    host: str
    cpu: str
    """Name of the processor."""
    runtime: str
    build: str
    """Hash of the runtime's libraries."""
    prompt: int
    """Tokens that are processed together."""
    generate: int
    """Tokens that are generated."""
    rounds: int
    """At least."""
    most_rounds: int


class SpeedRun(Record, tag="speed_run"):
    """A process timed a file. Seconds are wall time, and CPU time of all threads together."""

    file: str
    """The trial."""
    weights_key: str
    weights_hash: str | None
    file_bytes: int
    copy: int
    """0; of dense also 1."""
    round: int
    """From 0."""
    place: int
    """In the order of the round, from 0."""
    threads: int
    load_seconds: float | None = None
    resident_bytes: int | None = None
    prefill_seconds: float | None = None
    prefill_cpu_seconds: float | None = None
    decode_seconds: float | None = None
    decode_cpu_seconds: float | None = None
    error: str = ""
    """Why there are no times."""


class SpeedFinished(Record, tag="speed_finished"):
    """A session is complete."""

    rounds: int


class WorkerReady(Record, tag="worker_ready"):
    """A worker process is listening. Sent to the runner, not written to a journal."""

    pid: int


class WorkerFatal(Record, tag="worker_fatal"):
    """A worker cannot write to the study's folder and ends. Sent to the runner, not written to a journal."""

    error: str


AnyRecord: TypeAlias = (
    AttemptStarted | AttemptFinished | StepStarted | StepFinished | StepFailed | Progress | Warned | Layer | Window
    | TextBatch | BlockDistance | TaskFigure | Items | ChunkResults | TextTotals | FidelityTotals
    | RuntimeDistance | SpeedStarted | SpeedRun | SpeedFinished | HypothesisDeclared | Noted | WorkerReady | WorkerFatal
)  # fmt: skip

_DECODER: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


def _plain(value: object) -> object:
    """Return a value that JSON has no type for, such as a NumPy number, as a type that it has."""
    match value:
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case Path():
            return str(value)
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)


def encode(record: Record) -> bytes:
    """Return a record as a line of JSON."""
    try:
        return _ENCODER.encode(record) + b"\n"
    except UnicodeEncodeError:
        # A lone surrogate, from a file name that is not UTF-8, becomes `\udc80`.
        values = msgspec.to_builtins(record, enc_hook=_plain)
        return _ENCODER.encode(_encodable(values)) + b"\n"


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list():
            return [_encodable(item) for item in value]
    return value


def decode(line: bytes) -> AnyRecord:
    """Return the record of a line.

    Raises:
        ValueError: the line is not a record (msgspec's errors are subclasses).
    """
    return _DECODER.decode(line)


def convert(values: dict[str, Any]) -> AnyRecord:
    """Return the record of a JSON object.

    Raises:
        ValueError: the object is not a record.
    """
    record: AnyRecord = msgspec.convert(values, AnyRecord)
    return record

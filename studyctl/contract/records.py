"""The records of a journal. A worker writes them; the publisher, the live view and the runner read them.

One JSON object a line, ``kind`` first. ``seq`` (from 0), ``at`` (UTC, ISO 8601), ``trial`` and ``attempt`` are filled in by
the writer. NaN and infinity do not exist in JSON: they are written as ``null`` and read as None.
"""

from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from studyctl.contract.steps import Step
from studyctl.errors import FailureCause, ProblemCode

SCHEMA = 2
"""Rises when records change so that older readers would misread them."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What all records have."""

    seq: int = -1
    at: str = ""
    trial: str = ""
    attempt: int = -1


class AttemptStarted(Record, tag="attempt_started"):
    """Who runs what, where, with which versions."""

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
    """How the attempt ended; there is none where its process was killed."""

    state: str
    """``done``, ``failed`` or ``stopped``."""
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


class StepStarted(Record, tag="step_started"):
    """A step begins, or begins again within its attempt, with smaller batches."""

    step: Step


class StepFinished(Record, tag="step_finished"):
    """A step is complete: what was recorded since it began counts from now on."""

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
    """Of ``perplexity``: windows that the text has; None: more than were asked for."""
    measured: int | None = None
    """Of ``perplexity``: windows of the language that are measured in all; this batch is the last one if it ends there."""
    exported: "ExportFacts | None" = None
    """Of ``export``."""

    @property
    def is_last(self) -> bool:
        """Return whether the whole step is complete: a batch of windows may be followed by others."""
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


class StepFailed(Record, tag="step_failed"):
    """A step ended without a result."""

    step: Step
    error: str
    cause: FailureCause = FailureCause.ERROR
    code: ProblemCode = ProblemCode.OTHER
    hint: str = ""
    permanent: bool = False
    """Whether trying again as it is would fail again."""


class Progress(Record, tag="progress"):
    """How far the running step is."""

    step: Step
    done: float
    total: float
    unit: str
    note: str = ""


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
    """Energy of the dense model's logits, each token's minus their mean."""
    noise: float | None = None
    """Energy of the difference of both models' logits, likewise."""


class TextBatch(Record, tag="text_batch"):
    """What a batch of windows has as a whole."""

    language: str
    sequence_length: int
    bos: bool
    kl_counts: dict[int, int] | None = None
    """See :mod:`studyctl.contract.kl_counts`; None where KL was not asked for."""


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
    """Whether means over tasks include it: a fraction of right answers, or the like."""
    shots: int | None = None
    limit: int | None = None
    """The first n items; 0: all."""


class Items(Record, tag="item"):
    """A Parquet part with rows of items."""

    task: str
    part: str
    rows: int


class ChunkResults(Record, tag="chunks"):
    """Complete parts of a task that is not complete. They have a file of their own and are in no journal."""

    plan: str
    chunks: dict[int, Any]
    seconds: float


class TextTotals(Record, tag="perplexity"):
    """Figures of a language: made of its windows when they are read, and what versions before 0.2 wrote."""

    language: str
    perplexity: float | None = None
    bits_per_byte: float | None = None
    nll_nats: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    sequence_length: int | None = None
    bos: bool | None = None
    windows: int | None = None


class FidelityTotals(Record, tag="fidelity"):
    """Distance to dense in a language: made of its windows when they are read, and what versions before 0.2 wrote."""

    language: str
    kl_nats: float | None = None
    kl_p95_nats: float | None = None
    top1: float | None = None
    snr_db: float | None = None
    tokens: int | None = None


class WorkerReady(Record, tag="worker_ready"):
    """A worker process is listening. Sent to the runner, not written to a journal."""

    pid: int


class WorkerFatal(Record, tag="worker_fatal"):
    """A worker cannot write to the study's folder and ends. Sent to the runner, not written to a journal."""

    error: str


AnyRecord: TypeAlias = (
    AttemptStarted | AttemptFinished | StepStarted | StepFinished | StepFailed | Progress | Warned | Layer | Window
    | TextBatch | TaskFigure | Items | ChunkResults | TextTotals | FidelityTotals | WorkerReady | WorkerFatal
)  # fmt: skip

_DECODER: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


def _plain(value: object) -> object:
    """Return a value that JSON has no type for, such as a number of numpy, as one that it has."""
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
        # A lone surrogate, of a file name that is not UTF-8, becomes `\udc80`.
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
        ValueError: it is none (also msgspec's errors, which are a kind of it).
    """
    return _DECODER.decode(line)


def convert(values: dict[str, Any]) -> AnyRecord:
    """Return the record of a JSON object.

    Raises:
        ValueError: it is none.
    """
    record: AnyRecord = msgspec.convert(values, AnyRecord)
    return record

"""``plan.json``: what the spec asked for at the last run, for readers that have no access to the sources.

The runner writes it; the store and the next plan read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from studyctl.contract.hypotheses import PlannedHypothesis
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths, read_plain, write_atomic

VERSION = 2
"""Rises when a reader of this version would misread the file. 1: perplexity steps had no windows."""

TrialName = Annotated[str, Meta(pattern=r"^(?!\.+$)[^/\x00-\x1f]{1,240}$")]
"""Files are called like a trial, so its name is that of a file in a folder, never a path."""
Short = Annotated[str, Meta(max_length=2000)]
Language = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """An evaluation, or the export, that every trial of a model gets."""

    step: Step
    parts: dict[str, Any] = field(default_factory=dict)
    """What its key was made of."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial that the spec asks for."""

    trial: TrialName
    model: Short
    method: Short
    variant: Short
    backend: Short
    seed: int | None
    settings: dict[str, Any]
    calibration: dict[str, Any] | None
    weights_key: str | None
    """None when the sources could not be looked up."""
    dtype: str
    bits_per_weight: float | None
    """By the settings; the measured value is in the results."""
    sparsity: float | None
    stored_bytes: int | None = None
    """Of the weights of the whole model, as its files store them or an export would; None: not known."""
    servers: dict[str, str] = field(default_factory=dict)
    """By server: whether it loads an exported folder, or why not; empty: planned before 0.3, or not known."""
    available: bool = True
    """False when something that it needs is missing on the machine that planned it."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What ``weights_key`` was made of."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Everything that the spec asks for."""

    study: Short
    title: Short = ""
    spec_hash: str = ""
    at: str | None = None
    notes: tuple[str, ...] = ()
    evaluations: Mapping[str, tuple[PlannedStep, ...]] = field(default_factory=dict)
    """By model."""
    trials: tuple[PlannedTrial, ...] = ()
    task_languages: Mapping[str, Language] = field(default_factory=dict)
    """By task, where the spec says it."""
    hypotheses: tuple[PlannedHypothesis, ...] = ()
    made_from: str = ""
    """File of the spec; empty in plans that do not say so."""
    version: int = VERSION

    def steps(self, trial: PlannedTrial) -> tuple[Step, ...]:
        """Return the steps of a trial, without ``load``, which has no result."""
        evaluations = tuple(planned.step for planned in self.evaluations.get(trial.model, ()))
        if trial.variant == "dense":
            return evaluations
        return (Step(StepKind.COMPRESS, key=trial.weights_key), *evaluations)


def write_plan(planned: Planned, paths: StudyPaths) -> None:
    """Write ``plan.json``."""
    write_atomic(paths.plan, msgspec.json.encode(planned))


def read_plan(paths: StudyPaths) -> Planned | None:
    """Return the plan of the last run; None if there was none.

    Raises:
        StudyError: the file is not a plan, or was written by a later studyctl.
    """
    try:
        content = msgspec.json.decode(read_plain(paths.plan))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(paths, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(paths, f"is no JSON ({error})") from error
    try:
        version = content["version"]
        if version > VERSION:
            raise StudyError(
                Problem(
                    f"{paths.plan} was written by a later studyctl (plan version {version}; this one reads {VERSION})",
                    file=paths.plan,
                    hint="use that version of studyctl or a later one for this study",
                )
            )
        return msgspec.convert(content if version == VERSION else _upgraded(content), Planned)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(paths, f"is no plan ({error})") from error


def _unreadable(paths: StudyPaths, why: str) -> StudyError:
    hint = (
        f"delete it and run `studyctl run {quote(str(paths.spec))}`, which writes it again; no result is lost"
    )
    return StudyError(Problem(f"{paths.plan} {why}", file=paths.plan, hint=hint))


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a plan of version 1 in the current form."""
    parts = content.get("stage_parts") or {}
    evaluations = {
        model: [
            {"step": _step(name, key), "parts": parts.get(model, {}).get(name, {})}
            for name, key in protocol.items()
            if StepId.parse(name).kind not in (StepKind.LOAD, StepKind.COMPRESS)
        ]
        for model, protocol in content["protocols"].items()
    }
    kept = ("study", "title", "spec_hash", "at", "notes", "trials", "version")
    return {name: content[name] for name in kept if name in content} | {"evaluations": evaluations}


def _step(name: str, key: str | None) -> dict[str, Any]:
    kind, subject = StepId.parse(name)
    return {"kind": kind, "subject": subject, "key": key}

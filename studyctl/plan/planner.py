"""spec -> plan: everything that a study asks for, looked up and checked, without weights and without torch.

What is an error, a warning, or allowed:

* Whatever would fail after hours and can be checked now is an error, at its place in the spec; all of them are reported at once.
* A source that cannot be looked up (no network, not in the cache) is a warning: its trials count as not stored.
* What is missing on this machine (a backend's environment, a GPU for it) or not implemented yet is a note: the rest can run.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from studyctl.backends import OWN
from studyctl.contract.hypotheses import PlannedHypothesis
from studyctl.contract.identity import ModelIdentity, Purpose, TaskIdentity, TextIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.limits import LEAST_UNITS
from studyctl.contract.methods import Checkpoint, inverts_hessian
from studyctl.contract.steps import ALL_WINDOWS, BATCH_WINDOWS, Step, StepKind
from studyctl.errors import Problem, ProblemCode, SpecError, StudyError
from studyctl.files import digest
from studyctl.plan.backends import check_backends, missing_here
from studyctl.plan.blocks import check_blocks
from studyctl.plan.checks import (
    check_calibration_tokens,
    check_checkpoint,
    check_linears,
    check_model,
    check_seen_texts,
    check_sequence_length,
    check_walk,
    check_windows,
    too_short,
)
from studyctl.plan.deployment import check_dense_file, check_deployment
from studyctl.plan.devices import Place, resolve_devices
from studyctl.plan.hypotheses import resolve_hypotheses
from studyctl.plan.trials import Evaluation, PlannedModel, Trial, make_trials
from studyctl.plan.variants import Variant, expand_variants
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.ids_files import identify_ids
from studyctl.sources.model_files import identify_model
from studyctl.sources.task_files import identify_task
from studyctl.sources.task_index import BUNDLED
from studyctl.sources.text_files import identify_text
from studyctl.spec.loading import Document
from studyctl.spec.models import Calibration, Model, Perplexity, Speed, Tasks
from studyctl.spec.positions import Loc

PERPLEXITY_VERSION = 2
"""Rises when the same windows give other perplexities or fidelities, or the same text other windows."""
ACTIVATIONS_VERSION = 1
"""Rises when the same windows give other distances of hidden states."""
TASK_VERSION = 3
"""Rises when the same task gives other figures."""
EXPORT_VERSION = 1
"""Rises when the same weights give another folder, so that exports are made again."""

DEPLOY_VERSION = 1
"""Rises when the same weights give another file, or another distance of the runtime's logits."""

T = TypeVar("T")
Identity = TypeVar("Identity", ModelIdentity, TextIdentity, TaskIdentity)


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """Everything that a spec asks for."""

    document: Document
    models: list[PlannedModel]
    variants: list[Variant]
    trials: list[Trial]
    place: Place
    texts: Mapping[tuple[str, str, str], TextIdentity]
    """By source, purpose, language."""
    tasks: Mapping[str, TaskIdentity]
    problems: list[Problem]
    """Errors and warnings."""
    notes: list[str]
    """What the spec asks for but is not available here, and what to do about it."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """For each variant that cannot be made on this machine now, by name: what is missing."""
    hypotheses: Sequence[PlannedHypothesis] = ()

    @property
    def devices(self) -> list[str]:
        """Return the devices that it runs on, one worker each; empty if one of them does not exist."""
        return self.place.devices

    @property
    def errors(self) -> list[Problem]:
        """Return what must be corrected before anything runs."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def code(self) -> list[str]:
        """Return what the spec names that runs code, other than studyctl's and that of its libraries: a line for each."""
        spec, tasks = self.document.spec, defaultdict[str, list[str]](list)
        for task in self.tasks.values():
            for code in task.code:
                tasks[code].append(task.name)
        backends = {variant.backend for variant in self.variants} - {OWN}
        command = spec.execution.on_finish
        return [
            *([f"on_finish, at the end: {command}"] if command else []),
            *(f"{_named(names)}: {code}" for code, names in tasks.items()),
            *(
                f"model `{model.id}`: its weights, if they are pickled"
                for model in spec.models
                if model.allow_pickle
            ),
            *(f"backend `{name}`: that package, in an environment of its own" for name in sorted(backends)),
        ]

    def is_available(self, variant: Variant) -> bool:
        """Return whether the variant can be made here."""
        return variant.name not in self.missing

    def raise_errors(self) -> None:
        """Raise SpecError with every error of the plan, if there is one."""
        if self.errors:
            raise SpecError(self.errors)


def make_plan(document: Document, place: Place | None = None) -> StudyPlan:
    """Look up and check everything that the spec names; its problems are in the plan.

    Args:
        document: the spec.
        place: where its workers run; None: on the devices of this machine that the spec names.
    """
    return _Planner(document, place).plan()


@dataclass
class _Planner:
    """Looks up everything once, and collects problems."""

    document: Document
    place: Place | None
    problems: list[Problem] = field(default_factory=list)
    texts: dict[tuple[str, str, str], TextIdentity] = field(default_factory=dict)
    tasks: dict[str, TaskIdentity] = field(default_factory=dict)

    def plan(self) -> StudyPlan:
        document, spec = self.document, self.document.spec
        variants, problems = expand_variants(document)
        self.problems += problems
        place = self.place
        if place is None:
            devices = self._try(lambda: resolve_devices(spec.execution.devices), ("execution", "devices"))
            place = Place(devices or [])
        models = [self._model(index, model, variants, place) for index, model in enumerate(spec.models)]
        self._warn_of_twins(models)
        self.problems += check_seen_texts(document, tuple(self.texts.values()))
        for variant in variants:
            if not any(variant.applies_to(model.id) for model in spec.models):
                base = getattr(variant.settings, "of", "")
                what = f"`{variant.name}` is left out: `{base}` is not among the models"
                self._add(what, (*variant.loc, "of"), severity="warning")
        self.problems += check_backends(document, variants)
        self.problems += check_deployment(document, variants)
        hypotheses, problems = resolve_hypotheses(document, variants, self.tasks)
        self.problems += problems
        missing = missing_here(variants, place.devices)
        names: dict[str, list[str]] = defaultdict(list)
        for name, what in missing.items():
            names[what].append(name)
        if place.is_cluster and spec.evaluation.speed is not None:
            what = "files are not timed by a run on a cluster: `studyctl bench` does it, on the machine where it is called"
            self._add(what, ("evaluation", "speed"), severity="warning")
        notes = [f"{what}; not run without it: {', '.join(names[what])}" for what in names]
        return StudyPlan(
            document,
            models,
            variants,
            make_trials(models, variants, spec.study.seeds),
            place,
            self.texts,
            self.tasks,
            list(dict.fromkeys(self.problems)),  # many variants and models have the same problem
            notes,
            missing,
            hypotheses,
        )

    # -- models

    def _warn_of_twins(self, models: list[PlannedModel]) -> None:
        """Warn of models that are the same one under another name, in the same dtype and settings."""
        first: dict[tuple[object, ...], str] = {}
        for model in models:
            same = (model.key, model.spec.bos, model.spec.chat_template)
            other = first.setdefault(same, model.spec.id)
            if model.key is not None and other != model.spec.id:
                what = f"`{model.spec.id}` has the same files as `{other}`: it is measured twice"
                self._add(what, ("models", model.index, "id"), severity="warning")

    def _model(self, index: int, model: Model, variants: list[Variant], place: Place) -> PlannedModel:
        document, loc = self.document, ("models", index, "id")
        variants = [variant for variant in variants if variant.applies_to(model.id)]
        identity = self._identify(lambda: identify_model(model, document.base), loc, f"model `{model.id}`")
        if identity is not None:
            self.problems += check_model(document, loc, model, identity)
            self.problems += check_linears(document, model, identity, variants)
            self.problems += check_walk(document, loc, identity, variants)
            self.problems += check_blocks(document, model, identity, variants)
            self.problems += check_dense_file(document, loc, model, place.dtype_of(model.dtype))
        # All variants of a sweep may have the same calibration.
        asked: dict[tuple[Calibration, Loc], bool] = defaultdict(bool)
        for variant in variants:
            if variant.calibration is not None:
                asked[variant.calibration, variant.loc] |= inverts_hessian(variant.settings)
        return PlannedModel(
            index,
            model,
            identity,
            place.dtype_of(model.dtype),
            calibrations={
                calibration: self._calibration(calibration, table, model, identity, inverted=inverted)
                for (calibration, table), inverted in asked.items()
            },
            evaluations=tuple(self._evaluations(model, identity)),
            checkpoints=dict(self._checkpoints(model, identity, variants)),
        )

    def _checkpoints(
        self, model: Model, base: ModelIdentity | None, variants: list[Variant]
    ) -> Iterator[tuple[Checkpoint, ModelIdentity]]:
        for variant in variants:
            if isinstance(settings := variant.settings, Checkpoint):
                look_up = partial(identify_checkpoint, settings, self.document.base)
                loc = variant.place_of(self.document, "id", settings.id)
                checkpoint = self._identify(look_up, loc, f"checkpoint `{settings.id}`")
                if checkpoint is not None:
                    yield settings, checkpoint
                if checkpoint is not None and checkpoint.key is not None:
                    self.problems += check_checkpoint(self.document, loc, checkpoint, model, base)

    def _calibration(
        self,
        calibration: Calibration,
        table: Loc,
        model: Model,
        identity: ModelIdentity | None,
        *,
        inverted: bool,
    ) -> CalibrationData | None:
        """Return the text or ids of a calibration, of which a method may invert Hessians; None if it has problems."""
        document = self.document
        loc: Loc = ("calibration",) if calibration == document.spec.calibration else (*table, "calibration")
        if calibration.ids is not None:
            path = document.base / calibration.ids.replace("{model}", model.short_name)
            vocabulary = identity.vocab_size if identity and identity.key else None
            ids = self._try(lambda: identify_ids(path, vocabulary), (*loc, "ids"))
            if ids is None:
                return None
            self.problems += check_sequence_length(document, (*loc, "ids"), ids.tokens, identity)
            if inverted:
                self.problems += check_calibration_tokens(
                    document, (*loc, "ids"), ids.samples, ids.tokens, identity
                )
            return CalibrationData(samples=ids.samples, sequence_length=ids.tokens, ids=ids)
        length = calibration.sequence_length
        self.problems += check_sequence_length(document, (*loc, "sequence_length"), length, identity)
        if inverted:
            self.problems += check_calibration_tokens(
                document, (*loc, "samples"), calibration.samples, length, identity
            )
        windows = -(-calibration.samples // len(calibration.languages))
        texts = []
        for position, language in enumerate(calibration.languages):
            text = self._text(calibration.source, "calibration", language, (*loc, "languages", position))
            if text is not None:
                texts.append(text)
                if shortage := too_short(text, identity, windows * length):
                    what = f"not enough calibration text: {windows} windows of {length} tokens wanted in {language}, "
                    what += f"`{text.name}` has {shortage[0]}"
                    hint = "fewer samples, shorter windows, or more text"
                    self._add(what, (*loc, "samples"), hint=hint, severity=shortage[1])
        if len(texts) < len(calibration.languages):
            return None
        return CalibrationData(samples=calibration.samples, sequence_length=length, texts=tuple(texts))

    # -- evaluations

    def _evaluations(self, model: Model, identity: ModelIdentity | None) -> Iterator[Evaluation]:
        evaluation = self.document.spec.evaluation
        texts: list[Evaluation] = []
        if evaluation.perplexity is not None:
            loc: Loc = ("evaluation", "perplexity", "sequence_length")
            length = evaluation.perplexity.sequence_length
            self.problems += check_sequence_length(self.document, loc, length, identity)
            if 0 < evaluation.perplexity.windows < LEAST_UNITS:
                what = f"fewer than {LEAST_UNITS} windows leave no interval"
                self._add(what, (*loc[:-1], "windows"), severity="warning")
            texts = [
                self._perplexity(evaluation.perplexity, position, language, model, identity)
                for position, language in enumerate(evaluation.perplexity.languages)
            ]
            yield from texts
            if evaluation.fidelity is not None and evaluation.fidelity.activations:
                yield from map(_activations, texts)
        tasks = evaluation.tasks if evaluation.tasks and self._includes_exist(evaluation.tasks) else None
        for position, name in enumerate(tasks.names if tasks is not None else ()):
            yield self._task(name, model, ("evaluation", "tasks", "names", position))
        for name in tasks.own if tasks is not None else ():
            yield self._task(name, model, ("evaluation", "tasks", "own", name, "file"))
        if evaluation.speed is not None and (runtime := self._runtime()) is not None:
            yield self._deploy(evaluation.speed, runtime, texts)
        if self.document.spec.execution.keep_weights:
            yield _evaluation(Step(StepKind.EXPORT), {"code": EXPORT_VERSION}, complete=True)

    def _perplexity(
        self,
        protocol: Perplexity,
        position: int,
        language: str,
        model: Model,
        identity: ModelIdentity | None,
    ) -> Evaluation:
        loc: Loc = ("evaluation", "perplexity", "languages", position)
        length, fidelity = protocol.sequence_length, self.document.spec.evaluation.fidelity
        text = self._text(protocol.source, "perplexity", language, loc)
        # One of the window's tokens may be a BOS.
        if text is not None and (shortage := too_short(text, identity, length - 1)):
            what = f"text `{text.name}` in {language} is too short for a window of {length} tokens: {shortage[0]}"
            self._add(what, loc, hint="shorter windows, or more text", severity=shortage[1])
        elif text is not None:
            self.problems += check_windows(self.document, loc, text, identity, protocol)
        parts = {
            "text": text.key if text else None,
            "sequence_length": length,
            "bos": model.bos,
            "fidelity": list(fidelity.metrics) if fidelity else None,
            "code": PERPLEXITY_VERSION,
        }
        step = Step(StepKind.PERPLEXITY, language, (0, protocol.windows or ALL_WINDOWS))
        return _evaluation(step, parts, complete=parts["text"] is not None)

    def _includes_exist(self, tasks: Tasks) -> bool:
        """Return whether the folders of tasks exist; a missing one is reported once here, not for every task."""
        missing = [
            (index, folder)
            for index, folder in enumerate(tasks.include)
            if folder != BUNDLED and not (self.document.base / Path(folder).expanduser()).is_dir()
        ]
        for index, folder in missing:
            self._add(f"there is no folder `{folder}`", ("evaluation", "tasks", "include", index))
        return not missing

    def _task(self, name: str, model: Model, loc: Loc) -> Evaluation:
        tasks = self.document.spec.evaluation.tasks
        assert tasks is not None  # the caller iterates its names
        if name not in self.tasks:
            look_up = partial(identify_task, name, tasks, self.document.base)
            if (task := self._identify(look_up, loc, f"task `{name}`")) is not None:
                self.tasks[name] = task
        parts = {
            "task": self.tasks[name].key if name in self.tasks else None,
            "shots": tasks.shots,
            "limit": tasks.limit,
            "chat_template": model.chat_template,
            "bos": model.bos,
            "main": tasks.main.get(name),
            "code": TASK_VERSION,
        }
        return _evaluation(Step(StepKind.TASK, name), parts, complete=parts["task"] is not None)

    def _runtime(self) -> str | None:
        """Return the hash of llama.cpp's libraries; None, with a problem, if they are not here."""
        from studyctl.llama import INSTALL, kernels  # few studies need it, and numpy

        loc: Loc = ("evaluation", "speed")
        looked_up = self._try(lambda: (kernels(),), loc)
        if looked_up is None:
            return None
        (runtime,) = looked_up
        if runtime is None:
            self._add(
                "llama.cpp's library is not here: no file is written, and nothing is timed",
                loc,
                hint=INSTALL,
                severity="warning",
            )
        return runtime

    def _deploy(self, speed: Speed, runtime: str, texts: list[Evaluation]) -> Evaluation:
        compared = texts if self.document.spec.evaluation.fidelity is not None and speed.windows else []
        parts = {
            "windows": speed.windows if compared else 0,
            "texts": [
                {name: text.parts[name] for name in ("text", "sequence_length", "bos")} for text in compared
            ],
            "llama.cpp": runtime,
            "code": DEPLOY_VERSION,
        }
        complete = all(text.step.key is not None for text in compared)
        return _evaluation(Step(StepKind.DEPLOY), parts, complete=complete)

    def _text(self, source: str, purpose: Purpose, language: str, loc: Loc) -> TextIdentity | None:
        place = (source, purpose, language)
        if place not in self.texts:
            table = self.document.spec.text.get(source)
            look_up = partial(identify_text, source, table, purpose, language, self.document.base)
            if (text := self._identify(look_up, loc, f"text `{source}` in {language}")) is not None:
                self.texts[place] = text
        return self.texts.get(place)

    # -- problems

    def _try(self, look_up: Callable[[], T], loc: Loc) -> T | None:
        """Return what ``look_up`` returns; what it raises becomes a problem at this place of the spec."""
        try:
            return look_up()
        except StudyError as error:
            for problem in error.problems:
                self._add(problem.what, loc, note=problem.note, hint=problem.hint, code=problem.code)
            return None

    def _identify(self, look_up: Callable[[], Identity], loc: Loc, name: str) -> Identity | None:
        """Return a source's identity; None if it has problems. One that could not be looked up is a warning."""
        identity = self._try(look_up, loc)
        if identity is not None and identity.key is None:
            what = identity.unknown
            if name.partition(" ")[2] not in what:  # a reason that names the source says it all
                what = f"could not look up {name}: {what}"
            self._add(what, loc, severity="warning", code=ProblemCode.NOT_LOOKED_UP)
        return identity

    def _add(self, what: str, loc: Loc, **about: Any) -> None:
        self.problems.append(self.document.problem(what, loc, **about))


def _named(tasks: list[str]) -> str:
    return f"task `{tasks[0]}`" + (f" and {len(tasks) - 1} more" if len(tasks) > 1 else "")


def _activations(text: Evaluation) -> Evaluation:
    """Return the step that compares hidden states on the first batch of the windows of a text."""
    assert text.step.windows is not None
    parts = {name: text.parts[name] for name in ("text", "sequence_length", "bos")}
    step = Step(StepKind.ACTIVATIONS, text.step.subject, (0, min(BATCH_WINDOWS, text.step.windows[1])))
    return _evaluation(step, parts | {"code": ACTIVATIONS_VERSION}, complete=text.step.key is not None)


def _evaluation(step: Step, parts: dict[str, Any], *, complete: bool) -> Evaluation:
    """Return an evaluation; its step has a key only if all of ``parts`` could be looked up (``complete``)."""
    return Evaluation(replace(step, key=digest([str(step), parts]) if complete else None), parts)

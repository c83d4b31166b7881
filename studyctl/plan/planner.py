"""spec -> plan: everything that a study asks for, looked up and checked, without weights and without torch.

What is an error, a warning, or allowed:

* Whatever would fail after hours and can be known now is an error, at its place in the spec; all of them are found at once.
* What cannot be looked up (no network, not in the cache) is a warning: its trials count as not stored.
* What this machine lacks (a backend's environment, a GPU for it) or a later version will do is a note: the rest can run.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from studyctl.contract.identity import ModelIdentity, Purpose, TaskIdentity, TextIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.methods import Checkpoint
from studyctl.contract.steps import ALL_WINDOWS, Step, StepKind
from studyctl.errors import Problem, ProblemCode, SpecError, StudyError
from studyctl.files import digest
from studyctl.plan.backends import check_backends, missing_here
from studyctl.plan.checks import check_linears, check_sequence_length
from studyctl.plan.devices import resolve_devices
from studyctl.plan.published import check_checkpoint, checkpoint_place
from studyctl.plan.trials import Evaluation, PlannedModel, Trial, make_trials
from studyctl.plan.variants import Variant, expand_variants
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.dtypes import resolve_dtype
from studyctl.sources.ids_files import identify_ids
from studyctl.sources.model_files import identify_model
from studyctl.sources.task_files import identify_task
from studyctl.sources.task_index import BUNDLED
from studyctl.sources.text_files import identify_text
from studyctl.spec.loading import Document
from studyctl.spec.models import Calibration, Model, Tasks
from studyctl.spec.positions import Loc

PERPLEXITY_VERSION = 2
"""Rises when the same windows give other perplexities or fidelities, or a text other windows."""
TASK_VERSION = 2
"""Rises when the same task gives other figures."""
EXPORT_VERSION = 1
"""Rises when the same weights are exported otherwise, so that exports are made anew."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """Everything that a spec asks for."""

    document: Document
    models: list[PlannedModel]
    variants: list[Variant]
    trials: list[Trial]
    devices: list[str]
    texts: Mapping[tuple[str, str, str], TextIdentity]
    """By source, purpose, language."""
    tasks: Mapping[str, TaskIdentity]
    problems: list[Problem]
    """Errors and warnings."""
    notes: list[str]
    """What is asked for and not available here, and what to do about it."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Variants that cannot be made on this machine now, by name, with what is missing."""

    @property
    def errors(self) -> list[Problem]:
        """Return what must be mended before anything runs."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def is_available(self, variant: Variant) -> bool:
        """Return whether the variant can be made here."""
        return variant.name not in self.missing

    def raise_errors(self) -> None:
        """Raise SpecError with every error of the plan, if there is one."""
        if self.errors:
            raise SpecError(self.errors)


def make_plan(document: Document) -> StudyPlan:
    """Look up and check everything that the spec names.

    Raises:
        SpecError: never for what the spec names; those problems are in the plan.
    """
    return _Planner(document).plan()


@dataclass
class _Planner:
    """Collects problems while it looks things up, each thing once."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    texts: dict[tuple[str, str, str], TextIdentity] = field(default_factory=dict)
    tasks: dict[str, TaskIdentity] = field(default_factory=dict)

    def plan(self) -> StudyPlan:
        document, spec = self.document, self.document.spec
        variants, problems = expand_variants(document)
        self.problems += problems
        devices = (
            self._attempt(lambda: resolve_devices(spec.execution.devices), ("execution", "devices")) or []
        )
        models = [
            self._model(index, model, variants, devices[0] if devices else "cpu")
            for index, model in enumerate(spec.models)
        ]
        self._warn_of_unmatched(variants)
        for problem in check_backends(document, variants):
            self._add(problem)
        missing = missing_here(variants, devices)
        notes = list(_not_available(document, missing))
        trials = make_trials(models, variants, spec.study.seeds)
        return StudyPlan(
            document, models, variants, trials, devices, self.texts, self.tasks, self.problems, notes, missing
        )

    def _warn_of_unmatched(self, variants: list[Variant]) -> None:
        """A checkpoint is compared with a model that the study must have."""
        for variant in variants:
            if not any(variant.applies_to(model.id) for model in self.document.spec.models):
                of = getattr(variant.settings, "of", "")
                self._warn(
                    f"`{variant.name}` is left out: `{of}` is not among the models", (*variant.loc, "of")
                )

    def _model(self, index: int, model: Model, variants: list[Variant], device: str) -> PlannedModel:
        loc: Loc = ("models", index, "id")
        identity = self._attempt(lambda: identify_model(model, self.document.base), loc)
        planned = PlannedModel(index, model, identity, resolve_dtype(model.dtype, device))
        own = [variant for variant in variants if variant.applies_to(model.id)]
        if identity is not None:
            if identity.key is None:
                self._not_looked_up(f"could not look up model `{model.id}`: {identity.unknown}", loc)
            self.problems += check_linears(self.document, model, identity, own)
        # A sweep asks the same of its calibration for every variant.
        distinct = {(variant.calibration, variant.loc): variant for variant in own if variant.calibration}
        calibrations = {
            calibration: self._calibration(variant, model, identity)
            for (calibration, _), variant in distinct.items()
            if calibration is not None
        }
        return replace(
            planned,
            evaluations=tuple(self._evaluations(model, identity)),
            calibrations=calibrations,
            checkpoints=self._checkpoints(model, identity, own),
        )

    def _checkpoints(
        self, model: Model, base: ModelIdentity | None, variants: list[Variant]
    ) -> dict[Checkpoint, ModelIdentity]:
        checkpoints = {}
        for variant in variants:
            settings = variant.settings
            if not isinstance(settings, Checkpoint):
                continue
            loc = checkpoint_place(self.document, variant, settings)
            found = self._attempt(partial(identify_checkpoint, settings, self.document.base), loc)
            if found is not None:
                checkpoints[settings] = found
                self.problems += check_checkpoint(self.document, loc, found, model, base)
        return checkpoints

    def _evaluations(self, model: Model, identity: ModelIdentity | None) -> Iterator[Evaluation]:
        evaluation = self.document.spec.evaluation
        if (perplexity := evaluation.perplexity) is not None:
            place: Loc = ("evaluation", "perplexity")
            length = perplexity.sequence_length
            self.problems += check_sequence_length(
                self.document, (*place, "sequence_length"), length, model, identity
            )
            for position, language in enumerate(perplexity.languages):
                where: Loc = (*place, "languages", position)
                text = self._text(perplexity.source, "perplexity", language, where)
                self._check_long_enough(text, length, where)
                parts: dict[str, object] = {
                    "text": text.key if text else None,
                    "sequence_length": length,
                    "bos": model.bos,
                    "fidelity": list(evaluation.fidelity.metrics) if evaluation.fidelity else None,
                    "code": PERPLEXITY_VERSION,
                }
                step = Step(StepKind.PERPLEXITY, language, (0, perplexity.windows or ALL_WINDOWS))
                yield _evaluation(step, parts, known=text is not None and text.key is not None)
        names = evaluation.tasks.names if evaluation.tasks and self._includes_exist(evaluation.tasks) else ()
        for position, name in enumerate(names):
            yield self._task(name, model, ("evaluation", "tasks", "names", position))
        if self.document.spec.execution.keep_weights:
            yield _evaluation(Step(StepKind.EXPORT), {"code": EXPORT_VERSION}, known=True)

    def _includes_exist(self, tasks: Tasks) -> bool:
        """Without its folder every task would fail alike, so that is told once."""
        missing = [
            index
            for index, folder in enumerate(tasks.include)
            if folder != BUNDLED and not (self.document.base / Path(folder).expanduser()).is_dir()
        ]
        for index in missing:
            where: Loc = ("evaluation", "tasks", "include", index)
            self._add(self.document.problem(f"there is no folder `{tasks.include[index]}`", where))
        return not missing

    def _task(self, name: str, model: Model, loc: Loc) -> Evaluation:
        tasks = self.document.spec.evaluation.tasks
        assert tasks is not None  # the caller iterates its names
        if name not in self.tasks:
            found = self._attempt(lambda: identify_task(name, tasks, self.document.base), loc)
            if found is not None:
                self.tasks[name] = found
                if found.key is None:
                    self._not_looked_up(f"could not look up task `{name}`: {found.unknown}", loc)
        identity = self.tasks.get(name)
        parts: dict[str, object] = {
            "task": identity.key if identity else None,
            "shots": tasks.shots,
            "limit": tasks.limit,
            "chat_template": model.chat_template,
            "bos": model.bos,
            "main": tasks.main.get(name),
            "code": TASK_VERSION,
        }
        known = identity is not None and identity.key is not None
        return _evaluation(Step(StepKind.TASK, name), parts, known=known)

    def _text(self, source: str, purpose: Purpose, language: str, loc: Loc) -> TextIdentity | None:
        place = (source, purpose, language)
        if place not in self.texts:
            table = self.document.spec.text.get(source)
            found = self._attempt(
                lambda: identify_text(source, table, purpose, language, self.document.base), loc
            )
            if found is None:
                return None
            self.texts[place] = found
            if found.key is None:
                self._not_looked_up(f"could not look up text `{source}` in {language}: {found.unknown}", loc)
        return self.texts[place]

    def _calibration(
        self, variant: Variant, model: Model, identity: ModelIdentity | None
    ) -> CalibrationData | None:
        calibration = variant.calibration
        assert calibration is not None
        loc: Loc = (
            (*variant.loc, "calibration")
            if calibration != self.document.spec.calibration
            else ("calibration",)
        )
        if calibration.ids is not None:
            path = ids_path(calibration, model, self.document.base)
            vocabulary = identity.vocab_size if identity and identity.key else None
            ids = self._attempt(lambda: identify_ids(path, vocabulary), (*loc, "ids"))
            if ids is None:
                return None
            self.problems += check_sequence_length(self.document, (*loc, "ids"), ids.tokens, model, identity)
            return CalibrationData(samples=ids.samples, sequence_length=ids.tokens, ids=ids)
        length = calibration.sequence_length
        self.problems += check_sequence_length(
            self.document, (*loc, "sequence_length"), length, model, identity
        )
        found = [
            self._text(calibration.source, "calibration", language, (*loc, "languages", position))
            for position, language in enumerate(calibration.languages)
        ]
        texts = [text for text in found if text is not None]
        for text in texts:
            self._check_enough(text, calibration, (*loc, "samples"))
        if len(texts) < len(found):
            return None
        return CalibrationData(samples=calibration.samples, sequence_length=length, texts=tuple(texts))

    def _check_long_enough(self, text: TextIdentity | None, length: int, loc: Loc) -> None:
        """A BOS may be one of the window's tokens; every other token is at least a byte."""
        if text is not None and text.bytes is not None and text.bytes < length - 1:
            what = f"text `{text.name}` in {text.language} is too short for a window of {length} tokens: {text.bytes} bytes"
            self._add(self.document.problem(what, loc, hint="shorter windows, or more text"))

    def _check_enough(self, text: TextIdentity, calibration: Calibration, loc: Loc) -> None:
        """A token is at least a byte: too few bytes are certainly too few tokens."""
        if text.bytes is None:
            return
        share = -(-calibration.samples // len(calibration.languages))
        wanted = share * calibration.sequence_length
        if text.bytes < wanted:
            what = (
                f"not enough calibration text: {share} windows of {calibration.sequence_length} tokens wanted in "
                f"{text.language}, `{text.name}` has {text.bytes:,} bytes"
            )
            self._add(self.document.problem(what, loc, hint="fewer samples, shorter windows, or more text"))

    def _attempt(self, look_up: Callable[[], T], loc: Loc) -> T | None:
        """Return what ``look_up`` finds; what it raises becomes a problem at this place of the spec."""
        try:
            return look_up()
        except StudyError as error:
            for problem in error.problems:
                place = self.document.problem(
                    problem.what, loc, note=problem.note, hint=problem.hint, code=problem.code
                )
                self._add(place)
            return None

    def _add(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _not_looked_up(self, what: str, loc: Loc) -> None:
        self._add(self.document.problem(what, loc, severity="warning", code=ProblemCode.NOT_LOOKED_UP))

    def _warn(self, what: str, loc: Loc) -> None:
        self._add(self.document.problem(what, loc, severity="warning"))


def ids_path(calibration: Calibration, model: Model, base: Path) -> Path:
    """Return the file of a calibration's token ids for this model."""
    assert calibration.ids is not None
    return base / calibration.ids.replace("{model}", model.short_name)


def _evaluation(step: Step, parts: dict[str, object], *, known: bool) -> Evaluation:
    return Evaluation(replace(step, key=digest([str(step), parts]) if known else None), parts)


def _not_available(document: Document, missing: Mapping[str, str]) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for name, what in missing.items():
        names.setdefault(what, []).append(name)
    for what, variants in names.items():
        yield f"{what}; without it, not run: {', '.join(variants)}"
    if document.spec.execution.executor != "local":
        yield f"executor `{document.spec.execution.executor}` is not available yet: runs locally"

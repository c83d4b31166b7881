"""Choosing the next trial for a free worker, and making its job."""

import os
from collections.abc import Collection, Iterable, Sequence

from studyctl.contract.job import DeployProtocol, Job, TaskProtocol, TextProtocol
from studyctl.contract.limits import batch_tokens
from studyctl.contract.methods import Gguf, uses_data
from studyctl.contract.steps import StepKind
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Todo
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import PlannedModel, Trial, llama_build


class Queue:
    """The trials that wait for a worker, by model: choosing one takes as long as there are models."""

    def __init__(self, entries: Iterable[Todo] = (), first: Sequence[str] = ()) -> None:
        """Take trials, and the names of those that somebody wants before all others, in this order."""
        self.first = list(first)
        self._dense: dict[int, Todo] = {}
        """By the index of their model; a model has one."""
        self._variants: dict[int, dict[str, Todo]] = {}
        """By the index of their model, and by name."""
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._dense) + sum(map(len, self._variants.values()))

    def add(self, entry: Todo) -> None:
        """Add a trial behind the others of its model."""
        if entry.trial.is_dense:
            self._dense[entry.trial.model.index] = entry
        else:
            self._variants.setdefault(entry.trial.model.index, {})[entry.trial.id] = entry

    def remove(self, entry: Todo) -> None:
        """Remove a trial."""
        index = entry.trial.model.index
        if entry.trial.is_dense:
            del self._dense[index]
        else:
            del self._variants[index][entry.trial.id]
            if not self._variants[index]:
                del self._variants[index]

    def put_first(self, name: str) -> str:
        """Let a trial be the next one; return what was done, or why not, for the user."""
        dense = {entry.trial.id for entry in self._dense.values()}
        if name not in dense.union(*self._variants.values()):
            return f"{name} does not wait: it runs, is done, or is not part of this run"
        self.first = [name, *(other for other in self.first if other != name)]
        return f"{name} is run next"

    def _place(self, entry: Todo) -> int:
        """Return the place in :attr:`first` of a trial, or of the first one that waits for it; else the number of places."""
        names = {entry.trial.id}
        if entry.trial.is_dense:
            names |= self._variants.get(entry.trial.model.index, {}).keys()
        return next((place for place, name in enumerate(self.first) if name in names), len(self.first))

    def next(self, running: Collection[Trial], held_model: str | None) -> Todo | None:
        """Return the trial to run next, or None if all that are left must wait.

        A model's dense trial comes before its variants, which are compared with it and use its hidden states. Trials that were
        put first come before others, then those of the model that the worker holds in memory, then those of models that no
        worker runs.
        """
        at_work = {trial.model.index for trial in running}
        dense_at_work = {trial.model.index for trial in running if trial.is_dense}

        def rank(entry: Todo) -> tuple[int, bool, bool, int]:
            identity, index = entry.trial.model.identity, entry.trial.model.index
            is_held = held_model is not None and identity is not None and identity.key == held_model
            return self._place(entry), not is_held, index in at_work, index

        ready = [
            variants[next((name for name in self.first if name in variants), next(iter(variants)))]
            for index, variants in self._variants.items()
            if index not in self._dense and index not in dense_at_work
        ]
        return min((*self._dense.values(), *ready), key=rank, default=None)


def make_job(
    paths: StudyPaths, plan: StudyPlan, todo: Todo, stored: Stored, device: str, dense_key: str | None
) -> Job:
    """Return everything that a worker needs for the missing steps of a trial."""
    trial = todo.trial
    model, variant = trial.model, trial.variant
    if model.identity is None or model.identity.key is None or trial.weights_key is None or dense_key is None:
        raise StudyError(f"trial {trial.id}: its model or texts could not be looked up")
    results = stored.results_of(trial.weights_key, trial.steps)
    walked = [other for other in plan.variants if other.applies_to(model.spec.id) and other.is_walked]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Job(
        root=paths.root.resolve(),
        trial=trial.id,
        attempt=stored.next_attempt(trial.id),
        model=model.identity,
        allow_pickle=model.spec.allow_pickle,
        bos=model.spec.bos,
        chat_template=model.spec.chat_template,
        method=variant.method,
        variant=variant.name,
        backend=variant.backend,
        settings=variant.settings,
        calibration=model.calibrations[variant.calibration] if variant.calibration else None,
        calibration_settings=variant.calibration.model_dump(mode="json") if variant.calibration else None,
        seed=trial.seed,
        weights_key=trial.weights_key,
        dense_key=dense_key,
        checkpoint=trial.checkpoint,
        weights_hash=results.weights_hash,
        steps=todo.steps,
        evaluations=model.steps,
        measured={step.key: results.spans(step) for step in todo.steps if step.windows and step.key},
        text=_text_protocol(plan, model),
        task=_task_protocol(plan, model),
        deploy=_deploy_protocol(plan),
        device=device,
        dtype=model.dtype,
        threads=plan.place.threads or max(1, cores // len(plan.devices)),
        batch_tokens=batch_tokens(device),
        is_compressed=bool(walked),
        is_calibrated=any(uses_data(other.settings) for other in walked),
        keep_bytes=plan.document.spec.execution.keep_trial_weights,
        llama_build=llama_build() if isinstance(trial.variant.settings, Gguf) else None,
        backend_network=plan.document.spec.execution.backend_network,
    )


def _subjects(model: PlannedModel, kind: StepKind) -> list[str]:
    """Return the languages or tasks of a model's steps of this kind."""
    return [step.subject for step in model.steps if step.kind is kind and step.subject is not None]


def _text_protocol(plan: StudyPlan, model: PlannedModel) -> TextProtocol | None:
    evaluation = plan.document.spec.evaluation
    if (perplexity := evaluation.perplexity) is None:
        return None
    languages = _subjects(model, StepKind.PERPLEXITY)
    return TextProtocol(
        sequence_length=perplexity.sequence_length,
        texts={language: plan.texts[perplexity.source, "perplexity", language] for language in languages},
        fidelity=evaluation.fidelity.metrics if evaluation.fidelity is not None else (),
    )


def _deploy_protocol(plan: StudyPlan) -> DeployProtocol:
    evaluation = plan.document.spec.evaluation
    compares = evaluation.speed is not None and evaluation.fidelity is not None
    return DeployProtocol(windows=evaluation.speed.windows if evaluation.speed and compares else 0)


def _task_protocol(plan: StudyPlan, model: PlannedModel) -> TaskProtocol | None:
    if (tasks := plan.document.spec.evaluation.tasks) is None:
        return None
    names = _subjects(model, StepKind.TASK)
    return TaskProtocol(
        shots=tasks.shots,
        limit=tasks.limit,
        tasks={name: plan.tasks[name] for name in names},
        main=tasks.main,
        keep_texts=tasks.keep_texts,
    )

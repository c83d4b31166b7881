"""From a trial of the plan to the job that a worker gets."""

import os

from studyctl.contract.job import Job, TaskProtocol, TextProtocol
from studyctl.contract.limits import batch_tokens
from studyctl.contract.steps import StepKind
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Todo
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial


def make_job(
    paths: StudyPaths, plan: StudyPlan, todo: Todo, stored: Stored, device: str, dense_key: str | None
) -> Job:
    """Return everything that a worker needs for the missing steps of a trial."""
    trial, spec = todo.trial, plan.document.spec
    identity, variant = trial.model.identity, trial.variant
    if identity is None or identity.key is None or trial.weights_key is None or dense_key is None:
        raise StudyError(f"trial {trial.id}: its model or texts could not be looked up")
    have = stored.has(trial.weights_key)
    return Job(
        root=paths.root.resolve(),
        trial=trial.id,
        attempt=stored.next_attempt(trial.id),
        model=identity,
        allow_pickle=trial.model.spec.allow_pickle,
        bos=trial.model.spec.bos,
        chat_template=trial.model.spec.chat_template,
        method=variant.method,
        variant=variant.name,
        backend=variant.backend,
        settings=variant.settings,
        calibration=trial.model.calibrations[variant.calibration] if variant.calibration else None,
        asked_calibration=variant.calibration.model_dump(mode="json") if variant.calibration else None,
        seed=trial.seed,
        weights_key=trial.weights_key,
        dense_key=dense_key,
        checkpoint=trial.checkpoint,
        weights_hash=stored.weights_hash.get(trial.weights_key),
        steps=todo.steps,
        evaluations=trial.model.steps,
        measured={step.key: have.spans(step) for step in todo.steps if step.windows and step.key},
        text=_text_protocol(plan, trial),
        task=_task_protocol(plan, trial),
        device=device,
        dtype=trial.model.dtype,
        threads=max(1, _cores() // len(plan.devices)),
        batch_tokens=batch_tokens(device),
        backend_network=spec.execution.backend_network,
    )


def _text_protocol(plan: StudyPlan, trial: Trial) -> TextProtocol | None:
    evaluation = plan.document.spec.evaluation
    if evaluation.perplexity is None:
        return None
    languages = [step.subject for step in trial.model.steps if step.kind is StepKind.PERPLEXITY]
    return TextProtocol(
        sequence_length=evaluation.perplexity.sequence_length,
        texts={
            language: plan.texts[evaluation.perplexity.source, "perplexity", language]
            for language in languages
            if language is not None
        },
        fidelity=evaluation.fidelity.metrics if evaluation.fidelity is not None else (),
    )


def _task_protocol(plan: StudyPlan, trial: Trial) -> TaskProtocol | None:
    tasks = plan.document.spec.evaluation.tasks
    if tasks is None:
        return None
    names = [step.subject for step in trial.model.steps if step.kind is StepKind.TASK]
    return TaskProtocol(
        shots=tasks.shots,
        limit=tasks.limit,
        tasks={name: plan.tasks[name] for name in names if name is not None},
        main=tasks.main,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

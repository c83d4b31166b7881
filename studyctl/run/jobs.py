"""From a trial of the plan to the job that a worker gets."""

import os

from studyctl.errors import StudyError
from studyctl.evaluate.batching import batch_tokens
from studyctl.files import StudyPaths
from studyctl.plan.compare import Todo
from studyctl.plan.planner import StudyPlan
from studyctl.run.protocol import Job, StageOrder
from studyctl.store.index import Stored


def make_job(
    paths: StudyPaths, plan: StudyPlan, todo: Todo, stored: Stored, device: str, dense_key: str | None
) -> Job:
    """Return everything that a worker needs for the missing stages of a trial."""
    trial, document = todo.trial, plan.document
    identity = trial.model.identity
    if identity is None or identity.key is None or trial.weights_key is None or dense_key is None:
        raise StudyError(f"trial {trial.id}: its model or texts could not be looked up")
    keys = {"compress": trial.weights_key} | {stage.name: stage.key or "" for stage in trial.model.stages}
    return Job(
        root=paths.root.resolve(),
        base=document.base.resolve(),
        trial=trial.id,
        attempt=stored.next_attempt(trial.id),
        model=trial.model.spec,
        model_key=identity.key,
        method=trial.variant.method,
        variant=trial.variant.name,
        backend=trial.variant.backend,
        settings=trial.variant.settings.model_dump(mode="json"),
        calibration=trial.variant.calibration,
        seed=trial.seed,
        weights_key=trial.weights_key,
        dense_key=dense_key,
        checkpoint_key=trial.checkpoint.key if trial.checkpoint else None,
        weights_hash=stored.weights_hash.get(trial.weights_key),
        stages=[StageOrder(name=name, key=keys[name]) for name in todo.stages],
        evaluations=[StageOrder(name=stage.name, key=keys[stage.name]) for stage in trial.model.stages],
        text=dict(document.spec.text),
        evaluation=document.spec.evaluation,
        device=device,
        dtype=trial.model.dtype,
        threads=max(1, _cores() // len(plan.devices)),
        batch_tokens=batch_tokens(device),
        backend_network=document.spec.execution.backend_network,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

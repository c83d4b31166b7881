"""``plan.json``: what the spec asked for when it was run last, for readers that have no access to the sources."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, digest, write_atomic
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """The parts that keys were made of at the last run: tells what changed since."""

    spec_hash: str = ""
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Parts of each trial's ``weights_key``, by trial."""
    stages: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Parts of each stage's key, by model and stage."""


def load_plan(paths: StudyPaths) -> SavedPlan:
    """Return the plan of the last run; an empty one before the first.

    Raises:
        StudyError: the file is not what this version wrote.
    """
    try:
        saved = json.loads(paths.plan.read_text())
        if saved["version"] != PLAN_VERSION:
            raise StudyError(
                f"{paths.plan} was written by another version of studyctl (plan {saved['version']})",
                hint="run it with that version, or delete the file: results are in the journal and stay",
            )
        trials = {trial["trial"]: trial["parts"] for trial in saved["trials"]}
        return SavedPlan(saved["spec_hash"], trials, saved["stage_parts"])
    except FileNotFoundError:
        return SavedPlan()
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{paths.plan} is damaged ({error})",
            hint="delete it and run again: results are in the journal and stay",
        ) from error


def save_plan(plan: StudyPlan, paths: StudyPaths, spec: str) -> None:
    """Write ``plan.json``; ``spec`` is the text of the spec, complete in itself."""
    study = plan.document.spec.study
    content = {
        "version": PLAN_VERSION,
        "study": study.name,
        "title": study.title,
        "spec_hash": digest(spec),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": [*_weights_notes(plan), *plan.notes],
        "protocols": {
            model.spec.id: {stage.name: stage.key for stage in model.stages} for model in plan.models
        },
        "stage_parts": {
            model.spec.id: {stage.name: stage.parts for stage in model.stages} for model in plan.models
        },
        "trials": [_trial(trial, plan.is_available(trial.variant)) for trial in plan.trials],
    }
    write_atomic(paths.plan, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _trial(trial: Trial, available: bool) -> dict[str, Any]:
    return {
        "trial": trial.id,
        "model": trial.model.spec.id,
        "method": trial.variant.method,
        "variant": trial.variant.name,
        "backend": trial.variant.backend,
        "seed": trial.seed,
        "settings": trial.variant.settings.model_dump(mode="json"),
        "calibration": trial.variant.calibration.model_dump(mode="json")
        if trial.variant.calibration
        else None,
        "weights_key": trial.weights_key,
        "dtype": trial.model.dtype,
        "bits_per_weight": planned_bits(trial),
        "sparsity": planned_sparsity(trial),
        "available": available,
        "parts": trial.parts(),
    }


def planned_bits(trial: Trial) -> float | None:
    """Return bits per weight of the block linears by the settings, weighted by their sizes; None if not known."""
    identity, settings = trial.model.identity, trial.variant.settings
    if identity is None or not identity.linears or settings.method == "checkpoint":
        return None
    sizes = [(out * inputs, inputs) for out, inputs in identity.linears.values()]
    bits: dict[int, float] = {inputs: settings.bits_per_weight(inputs) for _, inputs in sizes}
    return sum(size * bits[inputs] for size, inputs in sizes) / sum(size for size, _ in sizes)


def planned_sparsity(trial: Trial) -> float | None:
    """Return the fraction of zeros that the settings ask for; None for a published checkpoint, which is counted."""
    settings = trial.variant.settings
    return None if settings.method == "checkpoint" else getattr(settings, "target_sparsity", 0.0)


def _weights_notes(plan: StudyPlan) -> list[str]:
    """Return what readers of the figures must know about the weights that were compressed."""
    return [
        f"{model.spec.short_name}: these weights were 4-bit (groups of 32) before; comparisons flatter quantization, "
        "above all with groups of 32"
        for model in plan.models
        if model.identity is not None and model.identity.kind == "package" and ".Q4" in model.spec.id
    ]

"""From a plan to its stored form."""

from datetime import UTC, datetime

from studyctl.contract.plan import Planned, PlannedStep, PlannedTrial
from studyctl.files import digest
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial


def planned(plan: StudyPlan, spec: str) -> Planned:
    """Return what is stored of a plan; ``spec`` is the text of the spec, complete in itself."""
    study = plan.document.spec.study
    return Planned(
        study=study.name,
        title=study.title,
        spec_hash=digest(spec),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=(*_weights_notes(plan), *plan.notes),
        evaluations={
            model.spec.id: tuple(PlannedStep(one.step, dict(one.parts)) for one in model.evaluations)
            for model in plan.models
        },
        trials=tuple(_trial(trial, plan.is_available(trial.variant)) for trial in plan.trials),
    )


def _trial(trial: Trial, available: bool) -> PlannedTrial:
    variant = trial.variant
    return PlannedTrial(
        trial=trial.id,
        model=trial.model.spec.id,
        method=variant.method,
        variant=variant.name,
        backend=variant.backend,
        seed=trial.seed,
        settings=variant.settings.model_dump(mode="json"),
        calibration=variant.calibration.model_dump(mode="json") if variant.calibration else None,
        weights_key=trial.weights_key,
        dtype=trial.model.dtype,
        bits_per_weight=planned_bits(trial),
        sparsity=planned_sparsity(trial),
        available=available,
        parts=trial.parts(),
    )


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

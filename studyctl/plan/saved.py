"""Converting a plan to its stored form."""

from datetime import UTC, datetime

from studyctl.contract.methods import Checkpoint, Dense
from studyctl.contract.plan import Planned, PlannedStep, PlannedTrial
from studyctl.files import digest
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial


def planned(plan: StudyPlan, spec: str) -> Planned:
    """Return the stored form of a plan; ``spec`` is the self-contained text of the spec."""
    study = plan.document.spec.study
    packed = [
        model.spec.short_name
        for model in plan.models
        if model.identity is not None and model.identity.kind == "package" and ".Q4" in model.spec.id
    ]
    notes = [
        f"{name}: these weights were 4-bit (groups of 32) before; comparisons flatter quantization, "
        "above all with groups of 32"
        for name in packed
    ]
    return Planned(
        study=study.name,
        title=study.title,
        spec_hash=digest(spec),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=(*notes, *plan.notes),
        evaluations={
            model.spec.id: tuple(PlannedStep(step, dict(parts)) for step, parts in model.evaluations)
            for model in plan.models
        },
        trials=tuple(_trial(trial, plan.is_available(trial.variant)) for trial in plan.trials),
    )


def _trial(trial: Trial, available: bool) -> PlannedTrial:
    variant, settings, linears = trial.variant, trial.variant.settings, {}
    bits = sparsity = None
    if not isinstance(settings, Checkpoint):  # its bits and sparsity are measured
        sparsity = getattr(settings, "target_sparsity", 0.0)
        linears = trial.model.identity.linears if trial.model.identity else {}
    if linears:
        bits_of = {inputs: settings.bits_per_weight(inputs) for _, inputs in linears.values()}
        walked = sum(out * inputs for out, inputs in linears.values())
        dense = sum(trial.model.identity.others.values()) if trial.model.identity else 0
        bits = sum(out * inputs * bits_of[inputs] for out, inputs in linears.values())
        bits = (bits + Dense().bits_per_weight(0) * dense) / (walked + dense)
        sparsity *= walked / (walked + dense)
    return PlannedTrial(
        trial=trial.id,
        model=trial.model.spec.id,
        method=variant.method,
        variant=variant.name,
        backend=variant.backend,
        seed=trial.seed,
        settings=settings.model_dump(mode="json"),
        calibration=variant.calibration.model_dump(mode="json") if variant.calibration else None,
        weights_key=trial.weights_key,
        dtype=trial.model.dtype,
        bits_per_weight=bits,
        sparsity=sparsity,
        stored_bytes=_stored_bytes(trial),
        available=available,
        parts=trial.parts(),
    )


def _stored_bytes(trial: Trial) -> int | None:
    """Return the bytes of the weights of the whole model: every tensor of its files, the blocks' linears as an export stores them.

    What is not compressed keeps the dtype of the files; of a GGUF file it is unpacked to 16 bits.
    """
    model = trial.checkpoint or trial.model.identity
    if model is None or not model.weight_bytes or (trial.checkpoint is None and not model.linears):
        return None
    if trial.checkpoint is not None:
        return model.weight_bytes
    float_bytes = 2.0 if model.kind == "package" else model.weight_bytes / model.parameters
    linears = model.linears.values()
    others = model.parameters - sum(out * inputs for out, inputs in linears)
    settings = trial.variant.settings
    return round(
        others * float_bytes + sum(settings.stored_bytes(out, inputs, float_bytes) for out, inputs in linears)
    )

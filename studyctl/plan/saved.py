"""Converting a plan to its stored form."""

from datetime import UTC, datetime
from pathlib import Path

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint, Dense, MethodSettings, OnGguf
from studyctl.contract.plan import Planned, PlannedStep, PlannedTrial
from studyctl.contract.servers import loaded_by
from studyctl.errors import Problem, SpecError
from studyctl.files import StudyPaths, digest, runs_folder
from studyctl.plan.blocks import bytes_in_blocks, fits, matrices_in_blocks
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial
from studyctl.sources.configs import has_other_linears
from studyctl.spec.loading import Document, load_spec


def planned(plan: StudyPlan, spec: str, made_from: str = "") -> Planned:
    """Return the stored form of a plan.

    Args:
        plan: the plan.
        spec: the self-contained text of the spec.
        made_from: file of the spec.
    """
    study, tasks = plan.document.spec.study, plan.document.spec.evaluation.tasks
    own = tasks.own.items() if tasks is not None else ()
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
        task_languages={name: task.language for name, task in own if task.language is not None},
        hypotheses=tuple(plan.hypotheses),
        made_from=made_from,
        trials=tuple(_trial(trial, plan.is_available(trial.variant)) for trial in plan.trials),
    )


def study_of(document: Document) -> StudyPaths:
    """Return the study that a spec is run as: the one whose own copy it is, wherever that lies, or that of its name."""
    own = StudyPaths(document.path.absolute().parent)
    is_copy = document.path.absolute() == own.spec and own.id.is_file()
    if is_copy and own.name == document.spec.study.name:
        return own
    return StudyPaths(runs_folder() / document.spec.study.name)


def source_of(document: Document, paths: StudyPaths, saved: Planned | None) -> str:
    """Return the file that a study is made from; running its own copy of the spec does not change that."""
    if document.path.absolute().is_relative_to(paths.root.absolute()):
        return saved.made_from if saved is not None else ""
    return str(document.path.absolute())


def other_spec(document: Document, paths: StudyPaths, saved: Planned | None) -> Problem | None:
    """Return a problem if the study of this name was made from another spec.

    A spec that was moved, renamed, or copied without a change is no other one.
    """
    made_from = Path(saved.made_from) if saved is not None else Path()
    if made_from.suffix != ".toml" or str(made_from) == source_of(document, paths, saved):
        return None
    try:
        other = load_spec(made_from).spec
    except SpecError:  # it is gone, or half written
        return None
    if other.study.name != document.spec.study.name or other == document.spec:
        return None
    return document.problem(
        f"study `{paths.name}` in {paths.root.parent} was made from another spec, {made_from}",
        ("study", "name"),
        hint="give one of the two another name; `studyctl run SPEC --yes` makes it follow this one, and no result is lost",
    )


def _trial(trial: Trial, available: bool) -> PlannedTrial:
    variant, settings, identity = trial.variant, trial.variant.settings, trial.model.identity
    bits: float | None = None
    sparsity: float | None = None
    if not isinstance(settings, Checkpoint):  # its bits and sparsity are measured
        sparsity = getattr(settings, "target_sparsity", 0.0)
        if identity is not None and identity.linears:
            shapes, dense = identity.linears.values(), sum(identity.others.values())
            walked = sum(out * inputs for out, inputs in shapes)
            if isinstance(settings, OnGguf) and fits(identity):
                in_blocks = matrices_in_blocks(identity, settings)
                bits = 8.0 * sum(in_blocks[name].bytes for name in identity.linears)
            else:
                bits = sum(out * inputs * settings.bits_per_weight(inputs) for out, inputs in shapes)
            bits = (bits + Dense().bits_per_weight(0) * dense) / (walked + dense)
            sparsity *= walked / (walked + dense)
    stored_as = trial.checkpoint if isinstance(settings, Checkpoint) else identity
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
        stored_bytes=stored_bytes(stored_as, settings) if stored_as is not None else None,
        servers=loaded_by(settings, identity.linears.values()) if identity is not None else {},
        available=available,
        parts=trial.parts(),
    )


def stored_bytes(model: ModelIdentity, settings: MethodSettings) -> int | None:
    """Return the bytes of the weights of a whole model: every tensor of its files, the blocks' linears as an export stores them.

    What is not compressed keeps the dtype of the files; that of a GGUF file is unpacked to 16 bits.

    Args:
        model: the model, or the published checkpoint.
        settings: of the variant.

    Returns:
        None if the headers of the files could not be read.
    """
    if isinstance(settings, Checkpoint) or not model.linears:
        return model.weight_bytes if isinstance(settings, Checkpoint) and model.weight_bytes else None
    if isinstance(settings, OnGguf) and fits(model):
        return bytes_in_blocks(model, settings)
    float_bytes = 2.0 if model.kind == "package" else model.weight_bytes / model.parameters
    if has_other_linears(model.linears, str(model.config.get("model_type"))):
        return round(model.parameters * float_bytes)  # exports of such a model are plain
    linears = model.linears.values()
    others = model.parameters - sum(out * inputs for out, inputs in linears)
    compressed = sum(settings.stored_bytes(out, inputs, float_bytes) for out, inputs in linears)
    return round(others * float_bytes + compressed)

"""Peak memory of a trial, predicted from sizes."""

from studyctl.backends import OWN
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.limits import batch_tokens, block_batch_tokens, chunk_tokens
from studyctl.plan.compressing import compressing_bytes, passing_bytes
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import PlannedModel, Trial

RUNTIME_BYTES = 370 << 20
"""A worker beside its model: 250 MiB of Python, torch and transformers, and what stays in the heap from trial to trial."""
TASKS_BYTES = 230 << 20
"""What lm-eval and datasets add, once a task was scored."""

CHUNK_TENSORS = 6
"""fp32 tensors of a chunk of a text's logits that exist at once, with those of the dense model."""
EXPORT_COPIES = 1.5
"""An export is read back beside the model, and unpacked while it is."""


def _width(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def peak_host_bytes(plan: StudyPlan, trial: Trial) -> int:
    """Return the peak of a worker's resident memory, in bytes."""
    device = plan.devices[0] if plan.devices else "cpu"
    runtime = RUNTIME_BYTES + (TASKS_BYTES if plan.document.spec.evaluation.tasks else 0)
    stored = max(map(_stored, filter(None, (trial.model.identity, trial.checkpoint))), default=0)
    if device.startswith("cuda"):
        return runtime + stored + _weights(trial.model)
    # The file is mapped while weights are read from it, and mapped pages count as resident.
    working = max(
        stored, _compressing(trial, device), _evaluating(plan, trial, device), _exporting(plan, trial)
    )
    return runtime + _weights(trial.model) + working


def peak_device_bytes(plan: StudyPlan, trial: Trial) -> int:
    """Return the peak of device memory, in bytes; 0 on a CPU."""
    device = plan.devices[0] if plan.devices else "cpu"
    if not device.startswith("cuda"):
        return 0
    return _weights(trial.model) + max(
        _compressing(trial, device), _evaluating(plan, trial, device), _exporting(plan, trial)
    )


def _stored(identity: ModelIdentity) -> int:
    # A GGUF file is converted to float32 once, and loaded from that.
    return 4 * identity.parameters if identity.kind == "package" else identity.weight_bytes


def _weights(model: PlannedModel) -> int:
    return model.identity.parameters * _width(model.dtype) if model.identity else 0


def _compressing(trial: Trial, device: str) -> int:
    identity, calibration = trial.model.identity, trial.variant.calibration
    if identity is None or trial.is_dense:
        return 0
    needed = compressing_bytes(
        identity,
        trial.variant.settings,
        None if calibration is None else trial.model.calibrations[calibration],
        width=_width(trial.model.dtype),
        batch_tokens=block_batch_tokens(device),
    )
    if trial.variant.backend == OWN:
        return needed
    return RUNTIME_BYTES + _weights(trial.model) + needed  # a second process with a model of its own


def _exporting(plan: StudyPlan, trial: Trial) -> int:
    keep = plan.document.spec.execution.keep_weights
    return int(EXPORT_COPIES * _weights(trial.model)) if keep else 0


def _evaluating(plan: StudyPlan, trial: Trial, device: str) -> int:
    identity, evaluation = trial.model.identity, plan.document.spec.evaluation
    if identity is None:
        return 0
    vocabulary, protocol = identity.vocab_size, evaluation.perplexity
    if not vocabulary or (protocol is None and evaluation.tasks is None):
        return 0
    tokens = max(batch_tokens(device), protocol.sequence_length if protocol is not None else 0)
    chunk = CHUNK_TENSORS * 4 * chunk_tokens(vocabulary, device) * vocabulary
    return passing_bytes(identity, tokens, _width(trial.model.dtype)) + chunk

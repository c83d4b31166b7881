"""Peak memory of a trial, predicted from sizes."""

from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import PlannedModel, Trial

RUNTIME_BYTES = 900 << 20
"""A worker before it has loaded anything: Python, torch, transformers, lm-eval."""
LOGIT_COPIES = 10
"""Bytes a logit in lm-eval's scoring of a batch: as computed, in float32, and after the softmax."""
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass that a trial begins with; halved when memory does not suffice."""


def _width(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def batch_tokens(device: str) -> int:
    """Return the tokens of a forward pass on a device."""
    return BATCH_TOKENS[device.split(":")[0]]


def peak_host_bytes(plan: StudyPlan, trial: Trial) -> int:
    """Return the peak of a worker's resident memory, in bytes."""
    device = plan.devices[0] if plan.devices else "cpu"
    if device.startswith("cuda"):
        return RUNTIME_BYTES + 2 * _weights(trial.model)
    return (
        RUNTIME_BYTES
        + _weights(trial.model)
        + max(_compressing(plan, trial, device), _evaluating(plan, trial, device))
    )


def peak_device_bytes(plan: StudyPlan, trial: Trial) -> int:
    """Return the peak of device memory, in bytes; 0 on a CPU."""
    device = plan.devices[0] if plan.devices else "cpu"
    if not device.startswith("cuda"):
        return 0
    return _weights(trial.model) + max(_compressing(plan, trial, device), _evaluating(plan, trial, device))


def _weights(model: PlannedModel) -> int:
    return model.identity.parameters * _width(model.dtype) if model.identity else 0


def _compressing(plan: StudyPlan, trial: Trial, device: str) -> int:
    identity, calibration = trial.model.identity, trial.variant.calibration
    if identity is None or not identity.linears:
        return 0
    width = _width(trial.model.dtype)
    widest_linear = max(out * inputs for out, inputs in identity.linears.values())
    solving = 3 * 4 * widest_linear  # weight, score and mask or codes, in float32
    if calibration is None:
        return solving
    activations = calibration.samples * calibration.sequence_length * identity.hidden_size * width
    batch = max(batch_tokens(device), calibration.sequence_length)
    passing = batch * (4 * identity.hidden_size + 3 * identity.intermediate_size) * 4
    return activations + passing + solving


def _evaluating(plan: StudyPlan, trial: Trial, device: str) -> int:
    identity, evaluation = trial.model.identity, plan.document.spec.evaluation
    if identity is None:
        return 0
    tokens = batch_tokens(device)
    passing = tokens * (4 * identity.hidden_size + 3 * identity.intermediate_size) * 4
    logits = tokens * identity.vocab_size * LOGIT_COPIES if evaluation.tasks else 0
    return passing + logits

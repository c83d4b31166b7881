"""Results as an index of journals has them."""

from collections.abc import Iterable
from pathlib import Path

from studyctl.contract.steps import Step
from studyctl.journal.stored import StoredResult, StoredStep
from studyctl.plan.trials import Trial


def stored_result(
    trial: Trial, steps: Iterable[Step], *, seconds: float = 1.0, available: int | None = None
) -> StoredResult:
    """Return what is stored where each of these steps was finished by a trial, and took so long."""
    assert trial.weights_key is not None
    return StoredResult.of_steps(
        [
            StoredStep(
                trial=trial.id,
                attempt=1,
                step=step,
                weights_key=trial.weights_key,
                weights_hash=None,
                seconds=seconds,
                peak_memory_bytes=0,
                peak_device_bytes=None,
                bits_per_weight=16.0,
                sparsity=0.0,
                available=available,
                at="2026-01-01T00:00:00Z",
                journal=Path(),
                begin=0,
                end=0,
            )
            for step in steps
        ]
    )

"""What runner and worker say to each other: one JSON object a line.

runner -> worker (stdin): a :class:`Job`, or a :class:`StopRequest`. End of file means that the runner is gone.
worker -> runner (the pipe that is its stdout when it starts): the records that it writes to the journal, and ``worker_ready``.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from studyctl.compress.settings import METHODS, MethodSettings
from studyctl.spec.models import Calibration, Evaluation, Model, TextSource


class StageOrder(BaseModel):
    """One stage to run, with the key that addresses its result."""

    model_config = ConfigDict(frozen=True)

    name: str
    key: str

    @property
    def subject(self) -> str:
        """Return the language or task."""
        return self.name.partition(":")[2]


class StopRequest(BaseModel):
    """Ask a worker to stop, after the stage that is running or at once."""

    stop: Literal["after_stage", "now"]


class Job(BaseModel):
    """One attempt at a trial: everything that the worker needs to know."""

    model_config = ConfigDict(frozen=True)

    root: Path
    """The study's folder."""
    base: Path
    """Folder that relative paths of the spec are resolved against."""
    trial: str
    attempt: int
    model: Model
    model_key: str
    """Identity of the weights when the trial was planned."""
    method: str
    variant: str
    backend: str
    settings: dict[str, Any]
    calibration: Calibration | None
    seed: int | None
    weights_key: str
    dense_key: str
    """``weights_key`` of the dense trial: addresses the references."""
    checkpoint_key: str | None = None
    """Identity of the published checkpoint when the trial was planned; None where the trial compresses by itself."""
    weights_hash: str | None
    """Hash of the weights that stored results belong to; None if there are none."""
    stages: list[StageOrder]
    """To run, in order."""
    evaluations: list[StageOrder]
    """All that the spec asks for: run if the weights turn out different."""
    text: dict[str, TextSource]
    evaluation: Evaluation
    device: str
    dtype: str
    threads: int
    batch_tokens: int
    """Tokens of a forward pass."""
    backend_network: bool = False
    """Whether another package's process may use the network."""
    export_to: Path | None = None
    """Where ``studyctl export`` wants the weights: such a job is no attempt at the trial and writes no journal. None: an
    export of the study itself."""

    @property
    def is_dense(self) -> bool:
        """Return whether nothing is to be compressed."""
        return self.method == "dense"

    @property
    def is_checkpoint(self) -> bool:
        """Return whether the weights are somebody's published ones."""
        return self.method == "checkpoint"

    def method_settings(self) -> MethodSettings:
        """Return the settings as the method's own type."""
        row = METHODS.get(self.method) or METHODS["prune+quantize"]
        return row.settings.model_validate(self.settings)

    def reference_key(self, stage_key: str) -> str:
        """Return the name of the dense reference of one text."""
        return f"{self.dense_key}-{stage_key}"

"""What a runner hands to a worker: one attempt at a trial, with its resolved sources."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from studyctl.contract.identity import (
    Bos,
    FidelityMetric,
    IdsIdentity,
    ModelIdentity,
    TaskIdentity,
    TextIdentity,
)
from studyctl.contract.methods import MethodSettings, settings_of
from studyctl.contract.steps import Span, Step, StepKind


class _Handed(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class StopRequest(_Handed):
    """Asks a worker to stop, after the running step or at once."""

    stop: Literal["after_step", "now"]


class CalibrationData(_Handed):
    """The calibration of a trial: token ids, or texts of which windows are drawn."""

    samples: int
    sequence_length: int
    texts: tuple[TextIdentity, ...] = ()
    """One a language; windows are taken from them in turn."""
    ids: IdsIdentity | None = None


class TextProtocol(_Handed):
    """How perplexity is measured."""

    sequence_length: int
    texts: dict[str, TextIdentity]
    """By language."""
    fidelity: tuple[FidelityMetric, ...] = ()
    """Distances to dense; none: not compared."""


class TaskProtocol(_Handed):
    """How tasks are measured."""

    shots: int
    limit: int
    """The first n items; 0: all."""
    tasks: dict[str, TaskIdentity]
    main: dict[str, str] = {}
    """Main metric by task, where the spec names it; else lm-eval's first."""


class Job(_Handed):
    """One attempt at a trial, with everything that a worker needs for it."""

    root: Path
    """The study's folder."""
    trial: str
    attempt: int
    model: ModelIdentity
    allow_pickle: bool = False
    bos: Bos = "auto"
    chat_template: bool = False
    method: str
    variant: str
    backend: str
    settings: Annotated[SerializeAsAny[MethodSettings], BeforeValidator(settings_of)]
    calibration: CalibrationData | None
    asked_calibration: dict[str, Any] | None = None
    """As the spec has it, for readers of the journal."""
    seed: int | None
    weights_key: str
    dense_key: str
    """``weights_key`` of the dense trial: addresses the references."""
    checkpoint: ModelIdentity | None = None
    """The published checkpoint whose weights are measured; None where the trial compresses by itself."""
    weights_hash: str | None
    """Hash of the weights that stored results belong to; None if there are none."""
    steps: tuple[Step, ...]
    """To run, in order."""
    evaluations: tuple[Step, ...]
    """All that the spec asks for; run if the weights turn out to differ from ``weights_hash``."""
    measured: dict[str, tuple[Span, ...]] = {}
    """Batches of windows that are stored for these weights, by the key of their step."""
    text: TextProtocol | None = None
    task: TaskProtocol | None = None
    device: str
    dtype: str
    threads: int
    batch_tokens: int
    """Tokens of a forward pass."""
    backend_network: bool = False
    """Whether another package's process may use the network."""
    export_to: Path | None = None
    """Folder for the weights of a ``studyctl export``: such a job is no attempt at the trial and writes no journal. None: the
    export step of the study."""

    @property
    def is_dense(self) -> bool:
        """Return whether nothing is to be compressed."""
        return self.method == "dense"

    @property
    def is_checkpoint(self) -> bool:
        """Return whether the weights are those of a published compressed model."""
        return self.checkpoint is not None

    @property
    def is_compared(self) -> bool:
        """Return whether distances to the dense model are measured."""
        return not self.is_dense and self.text is not None and bool(self.text.fidelity)

    def asks_for(self, kind: StepKind) -> bool:
        """Return whether a step of this kind is to be run."""
        return any(step.kind is kind for step in self.steps)

    def reference_name(self, batch: Step) -> str:
        """Return the name of the dense model's hidden states of a batch of windows."""
        assert batch.windows is not None
        return f"{self.dense_key}-{batch.key}-{batch.windows[0]}-{batch.windows[1]}"

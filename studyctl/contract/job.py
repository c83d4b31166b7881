"""What the runner hands to a worker: one attempt at a trial, with its resolved sources."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from studyctl.contract.exports import Embeddings, ExportFormat
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

StopWhen = Literal["after_step", "now"]


class _Handed(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class StopRequest(_Handed):
    """Asks a worker to stop, after the running step or at once."""

    stop: StopWhen


class Lease(_Handed):
    """Lets a worker of a cluster record results for a while: its agent has just heard that the attempt is still its own."""

    lease: float
    """Seconds from its receipt, by the worker's monotonic clock."""


class CalibrationData(_Handed):
    """The calibration data of a trial: token ids, or texts that windows are drawn from."""

    samples: int
    sequence_length: int
    texts: tuple[TextIdentity, ...] = ()
    """One per language; windows are taken from them in turn."""
    ids: IdsIdentity | None = None


class TextProtocol(_Handed):
    """How perplexity is measured."""

    sequence_length: int
    texts: dict[str, TextIdentity]
    """By language."""
    fidelity: tuple[FidelityMetric, ...] = ()
    """Distances to dense; empty: not compared."""


class TaskProtocol(_Handed):
    """How tasks are measured."""

    shots: int
    limit: int
    """The first n items; 0: all."""
    tasks: dict[str, TaskIdentity]
    main: dict[str, str] = {}
    """Main metric by task, where the spec names one; other tasks use lm-eval's first."""
    keep_texts: bool = True
    """Whether the study keeps the texts of items, and generated answers."""


class DeployProtocol(_Handed):
    """How a file is compared with the dense model."""

    windows: int
    """Of each language, from the first; 0: not compared."""


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
    calibration_settings: dict[str, Any] | None = None
    """As the spec has it, with overrides applied; for readers of the journal."""
    seed: int | None
    weights_key: str
    dense_key: str
    """``weights_key`` of the model's dense trial; part of the names of the dense references."""
    checkpoint: ModelIdentity | None = None
    """The published checkpoint whose weights are measured; None for every other trial."""
    weights_hash: str | None
    """Hash of the weights that stored results belong to; None if there are none."""
    steps: tuple[Step, ...]
    """Those to run, in order."""
    evaluations: tuple[Step, ...]
    """All evaluations of the spec; all run if the weights turn out to differ from ``weights_hash``."""
    measured: dict[str, tuple[Span, ...]] = {}
    """Batches of windows already stored for these weights, by the key of their step."""
    text: TextProtocol | None = None
    task: TaskProtocol | None = None
    deploy: DeployProtocol | None = None
    device: str
    dtype: str
    threads: int
    batch_tokens: int
    """Tokens per forward pass."""
    is_compressed: bool = False
    """Whether the study has variants of this model that studyctl itself compresses: then its blocks are checked once it is loaded."""
    is_calibrated: bool = False
    """Whether some of these need activations."""
    keep_bytes: int = 0
    """How many bytes of weights of finished trials the study keeps."""
    llama_build: str | None = None
    """Of the library that the plan saw, for variants that llama.cpp makes (:func:`studyctl.llama.build`)."""
    backend_network: bool = False
    """Whether another package's process may use the network."""
    export_to: Path | None = None
    """Target folder of ``studyctl export``, whose job writes no journal. None: the job is an attempt of a run, and its export step
    writes to the study's own folder."""
    export_format: ExportFormat = ExportFormat.FOLDER
    export_embeddings: Embeddings | None = None
    """Of a GGUF file; None: as they are."""

    @property
    def is_dense(self) -> bool:
        """Return whether this is the uncompressed model."""
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
        """Return the file name (without suffix) of the dense model's hidden states on a batch of windows."""
        assert batch.windows is not None
        return f"{self.dense_key}-{batch.key}-{batch.windows[0]}-{batch.windows[1]}"

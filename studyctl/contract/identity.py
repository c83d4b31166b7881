"""Identities of models, texts, tasks and token ids. They are resolved once, when a study is planned, and handed to the workers.

A key is None where a source could not be looked up; ``unknown`` says why. A local file is identified by the hash of its bytes: reading
it later gives the same bytes, or fails (:mod:`studyctl.sources.verified`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Purpose = Literal["calibration", "perplexity"]
"""What a text is for."""
Bos = Literal["auto", "none", "prepend"]
"""Begin-of-sequence token before windows and contexts; auto: as the model's tokenizer does by default."""
FidelityMetric = Literal["kl", "top1", "snr"]
"""A distance to the dense model."""
PLAIN = "plain"
"""Weights stored as in any model: pruned ones, or rounded ones in 16 bits."""
GGUF = "gguf"
"""Weights stored as one GGUF file without a config, which is that of the model they were made from."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A local file and its content."""

    path: Path
    sha256: str
    """Hex digits."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model and its content. Sizes are 0 and ``linears`` empty where they could not be looked up."""

    id: str
    """As written in the spec."""
    kind: Literal["folder", "file", "hub", "package"]
    key: str | None
    """Equal keys mean equal weights, config and tokenizer."""
    revision: str = "main"
    """Of a hub model, as written in the spec."""
    commit: str | None = None
    """Of a hub model."""
    folder: Path | None = None
    """Where the files are; None: a hub model that is not downloaded."""
    file: str | None = None
    """The GGUF file in ``folder``, or in the hub's repository."""
    files: tuple[FileIdentity, ...] = ()
    """Everything that is loaded: weights, config, tokenizer; empty for a hub model, which its commit identifies."""
    config: dict[str, Any] = field(default_factory=dict)
    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Those of the decoder blocks: full name -> ``(out, in)``; empty where the weights are pickled or packed. An expert's part of a
    tensor has its number after the tensor's name."""
    others: dict[str, int] = field(default_factory=dict)
    """What else the decoder blocks have of two or more dimensions, which stays dense: name -> number of weights."""
    parameters: int = 0
    weight_bytes: int = 0
    """As stored."""
    hidden_size: int = 0
    intermediate_size: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocab_size: int = 0
    """Rows of the embedding: token ids must be below it."""
    max_positions: int = 0
    """0: the config sets no maximum."""
    tied: bool = False
    tokenizer: bool = True
    """Whether the files include one; a published checkpoint may come without."""
    storage: str = PLAIN
    """How weights are stored: ``plain``, or the name of the format in which they are packed."""
    caveats: tuple[str, ...] = ()
    """For the user: what may go wrong, judging by the files, as sentences; only loading or tokenizing settles it."""
    unknown: str = ""
    note: str = ""
    """For the user: that the hub did not answer, so the commit is the one seen last."""

    @property
    def short_name(self) -> str:
        """Return the last part of the id, without ``.gguf``."""
        return short_name(self.id)

    @property
    def repository(self) -> str:
        """Return the id of a hub model's repository: of a file in one, what comes before the file."""
        return self.id.removesuffix(f"/{self.file}") if self.file is not None else self.id


def short_name(model_id: str) -> str:
    """Return the last part of a model's id, without ``.gguf``."""
    return model_id.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


@dataclass(frozen=True, slots=True)
class TextIdentity:
    """A text and where it comes from: files, or one split of a hub dataset."""

    name: str
    """Of the source in the spec."""
    purpose: Purpose
    language: str
    key: str | None
    """Equal keys mean equal text."""
    bytes: int | None = None
    """UTF-8 bytes of the text; None for a dataset of the hub."""
    files: tuple[FileIdentity, ...] = ()
    """In order; empty for a dataset of the hub."""
    field: str = "text"
    dataset: str | None = None
    config: str | None = None
    split: str = ""
    commit: str | None = None
    unknown: str = ""
    note: str = ""
    """For the user: that the hub did not answer, so the commit is the one seen last."""

    def __str__(self) -> str:
        return f"{self.purpose} text `{self.name}` in {self.language}"


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """A task and where its items come from: local files, or a hub dataset."""

    name: str
    key: str | None
    """Equal keys mean equal prompts and items."""
    yaml: Path | None = None
    """None only where lm-eval is not installed."""
    files: tuple[FileIdentity, ...] = ()
    """All of its local files: definitions, Python functions, items."""
    code: tuple[str, ...] = ()
    """What of it runs code that is not lm-eval's own, each in a few words."""
    test: Path | None = None
    """Items that the spec gives instead of the task's own."""
    fewshot: Path | None = None
    """Items that the spec gives for few-shot examples."""
    output_type: str = ""
    items: int | None = None
    """Number of items in a local file of JSON lines; None for other data."""
    bytes: int | None = None
    """Of that file."""
    dataset: str | None = None
    """Of the hub."""
    commit: str | None = None
    unknown: str = ""
    note: str = ""
    """For the user: that the hub did not answer, so the commit is the one seen last."""


@dataclass(frozen=True, slots=True)
class IdsIdentity:
    """A file of calibration token ids and its content."""

    key: str
    file: FileIdentity
    samples: int
    tokens: int
    """Per sample."""

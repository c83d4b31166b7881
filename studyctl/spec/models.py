"""Every table and key of a study spec, with type, bounds, default and description.

``docs/spec.md`` and the JSON schema are generated from here.
"""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

from studyctl.compress.settings import METHODS, Dense, MethodSettings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=100)]
Language = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)]
Languages = Annotated[tuple[Language, ...], Field(min_length=1)]
BUNDLED_TEXTS = ("pocket",)
"""Text sources that need no ``[text]`` table."""


class Table(BaseModel):
    """A table of the spec: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"`{value}` is listed twice")
        seen.add(value)
    return values


class Study(Table):
    """What the study is called and what it builds on."""

    name: Annotated[Name, Field(description="folder under runs/")]
    title: Annotated[str, Field(description="shown above the results")] = ""
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...],
        Field(min_length=1, description="every trial that draws at random (the choice of calibration windows) runs once for each"),
    ] = (0,)
    extends: Annotated[str | None, Field(description="spec to build on: its tables are merged with these, arrays replaced")] = None

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _unique(value)


class Model(Table):
    """A model to compress and measure."""

    id: Annotated[str, Field(min_length=1, description="hub id, folder (relative to the spec), or package:<module>/<file>.gguf")]
    revision: Annotated[str, Field(min_length=1, description="branch, tag or commit of a hub model; resolved to a commit and recorded")] = "main"
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32", "auto"],
        Field(description="auto: bfloat16 where the device computes it natively, else float32"),
    ] = "auto"
    bos: Annotated[
        Literal["auto", "none", "prepend"],
        Field(description="begin-of-sequence token before every window and context; auto: as the model's tokenizer does by default"),
    ] = "auto"
    chat_template: Annotated[bool, Field(description="task prompts go through the model's chat template, as lm-eval does it")] = False
    allow_pickle: Annotated[bool, Field(description="load a checkpoint that exists as pickle only; unpickling can run any code")] = False

    @property
    def short_name(self) -> str:
        """Return the last part of the id, without ``.gguf``."""
        return self.id.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


class Calibration(Table):
    """The text that methods with data look at."""

    source: Annotated[str, Field(min_length=1, description="a named text source")] = "c4"
    languages: Annotated[Languages, Field(description="windows are taken from them in turn")] = ("en",)
    samples: Annotated[int, Field(ge=1, le=100_000, description="windows")] = 128
    sequence_length: Annotated[int, Field(ge=2, le=1_000_000, description="tokens of a window")] = 2048
    ids: Annotated[
        str | None,
        Field(description="exact token ids instead: an int32 .npy file [samples, tokens]; {model} is the last part of the model's id"),
    ] = None

    @field_validator("languages")
    @classmethod
    def _languages_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _unique(value)


class CalibrationOverride(Table):
    """Keys of ``[calibration]`` that a variant has different."""

    source: Annotated[str | None, Field(min_length=1)] = None
    languages: Languages | None = None
    samples: Annotated[int | None, Field(ge=1, le=100_000)] = None
    sequence_length: Annotated[int | None, Field(ge=2, le=1_000_000)] = None
    ids: str | None = None

    def applied_to(self, base: Calibration) -> Calibration:
        """Return ``base`` with these keys replaced."""
        return Calibration(**(base.model_dump() | self.model_dump(exclude_none=True)))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Backend = Literal["studyctl", "autoawq", "auto-gptq", "gptqmodel", "llm-compressor"]


class CompressionTable(Table):
    """One ``[[compression]]``: a method whose options may be lists; several lists multiply."""

    settings_type: ClassVar[type[MethodSettings]]

    method: Any
    models: Annotated[tuple[str, ...], Field(min_length=1, description="only models whose id matches one of these patterns")] = ("*",)
    calibration: Annotated[
        tuple[CalibrationOverride, ...],
        BeforeValidator(_as_tuple),
        Field(min_length=1, description="keys of [calibration] that differ; a list sweeps"),
    ] = (CalibrationOverride(),)
    backend: Annotated[
        tuple[Backend, ...],
        BeforeValidator(_as_tuple),
        Field(min_length=1, description="whose implementation; a list sweeps"),
    ] = ("studyctl",)

    @property
    def swept(self) -> frozenset[str]:
        """Return the options that are lists of several values."""
        fields = (*self.settings_type.model_fields, "calibration", "backend")
        return frozenset(name for name in fields if name != "method" and len(getattr(self, name)) > 1)

    def expand(self) -> Iterator[tuple[MethodSettings, CalibrationOverride, Backend]]:
        """Yield one setting for every combination of the listed values, the last option changing fastest."""
        options = [name for name in self.settings_type.model_fields if name != "method"]
        for *values, calibration, backend in product(*(getattr(self, name) for name in options), self.calibration, self.backend):
            given = dict(zip(options, values, strict=True))
            yield self.settings_type(method=self.method, **given), calibration, backend

    @model_validator(mode="after")
    def _every_combination_is_valid(self) -> Self:
        for _ in self.expand():
            pass
        return self


def _sweeping(settings: type[MethodSettings]) -> type[CompressionTable]:
    """Return the table of a method: its settings, with a list allowed wherever there is a value."""
    fields: dict[str, Any] = {"method": (settings.model_fields["method"].annotation, ...)}
    schemas = settings.model_json_schema()["properties"]
    for name, field in settings.model_fields.items():
        if name == "method":
            continue
        item = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        one = {key: value for key, value in schemas[name].items() if key not in ("title", "default", "description")}
        # Any here, because the type exists at run time only; WithJsonSchema says what a user may write.
        annotation: Any = Annotated[
            tuple[item, ...],  # type: ignore[valid-type]
            BeforeValidator(_as_tuple),
            WithJsonSchema({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}], "description": field.description or ""}),
        ]
        default = ... if field.is_required() else (field.default,)
        fields[name] = (annotation, Field(default, min_length=1, description=field.description))
    table = create_model(f"{settings.__name__}Table", __base__=CompressionTable, __doc__=settings.__doc__, **fields)
    table.settings_type = settings
    return table


TABLES: dict[str, type[CompressionTable]] = {name: _sweeping(row.settings) for name, row in METHODS.items() if row.settings is not Dense}
"""The ``[[compression]]`` table of every method, by its tag."""


def _tag(value: Any) -> str:
    method = value.get("method") if isinstance(value, dict) else getattr(value, "method", None)
    return "prune+quantize" if isinstance(method, list | tuple) else str(method)


if TYPE_CHECKING:
    AnyCompression = CompressionTable
else:
    _tagged = tuple(Annotated[table, Tag(tag)] for tag, table in TABLES.items())
    _union = _tagged[0]
    for _table in _tagged[1:]:
        _union = _union | _table
    AnyCompression = Annotated[_union, Discriminator(_tag)]


Purpose = Literal["calibration", "perplexity"]


class TextSource(Table):
    """A named text: a hub dataset, or local files."""

    dataset: Annotated[str | None, Field(description="hub id of a dataset")] = None
    revision: Annotated[str, Field(description="branch, tag or commit of the dataset")] = "main"
    config: Annotated[str | dict[Language, str] | None, Field(description="configuration, one for all languages or one for each")] = None
    split: Annotated[str | dict[Purpose, str], Field(description="split, one for all purposes or one for each")] = {
        "calibration": "train",
        "perplexity": "validation",
    }
    files: Annotated[
        str | dict[Purpose, str] | None,
        Field(description="local files (.jsonl, .txt, .parquet), relative to the spec; {language} is filled in"),
    ] = None
    field: Annotated[str, Field(min_length=1, description="field or column that holds the text")] = "text"

    @model_validator(mode="after")
    def _either_dataset_or_files(self) -> Self:
        if (self.dataset is None) == (self.files is None):
            raise ValueError("give `dataset` or `files`" + (", not both" if self.dataset else ""))
        return self


class Perplexity(Table):
    """Perplexity and bits per byte in each language."""

    source: Annotated[str, Field(min_length=1, description="a named text source")] = "c4"
    languages: Annotated[Languages, Field(description="languages to measure")] = ("en",)
    sequence_length: Annotated[int, Field(ge=2, le=1_000_000, description="tokens of a window, a BOS included")] = 2048
    windows: Annotated[int, Field(ge=0, description="the first n of each language; 0: all of the text")] = 128

    @field_validator("languages")
    @classmethod
    def _languages_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _unique(value)


FidelityMetric = Literal["kl", "top1", "snr"]


class Fidelity(Table):
    """Distance to the dense model on the perplexity windows, from the same forward pass."""

    metrics: Annotated[
        tuple[FidelityMetric, ...],
        Field(min_length=1, description="kl: KL(dense || compressed); top1: agreement of the likeliest token; snr: logit signal to noise in dB"),
    ] = ("kl", "top1", "snr")


class TaskData(Table):
    """Local files of a stock task."""

    test: Annotated[str, Field(min_length=1, description="items to score")]
    fewshot: Annotated[str | None, Field(description="items that few-shot examples are drawn from")] = None


class Tasks(Table):
    """Task accuracies by lm-eval's own definitions."""

    names: Annotated[tuple[str, ...], Field(min_length=1, description="lm-eval tasks")]
    shots: Annotated[int, Field(ge=0, le=64, description="examples before each item")] = 0
    limit: Annotated[int, Field(ge=0, description="the first n items; 0: every item")] = 0
    include: Annotated[tuple[str, ...], Field(description="folders with lm-eval YAML files, relative to the spec; `pocket` is bundled")] = ()
    data: Annotated[dict[str, str | TaskData], Field(description="a stock task read from a local file instead of the hub")] = {}

    @field_validator("names")
    @classmethod
    def _names_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _unique(value)


class Evaluation(Table):
    """What is measured."""

    perplexity: Perplexity | None = None
    fidelity: Fidelity | None = None
    tasks: Tasks | None = None

    @model_validator(mode="after")
    def _fidelity_has_windows(self) -> Self:
        if self.fidelity is not None and self.perplexity is None:
            raise ValueError("fidelity is measured on the perplexity windows: add [evaluation.perplexity]")
        return self


class Execution(Table):
    """How the study is run; nothing here changes a result."""

    executor: Annotated[Literal["local", "ray", "slurm"], Field(description="where workers run")] = "local"
    devices: Annotated[
        str | tuple[str, ...], Field(description='"auto", "cpu", "cuda:0" or a list; one worker each', examples=["auto", "cpu", ["cuda:0", "cuda:1"]])
    ] = "auto"
    retries: Annotated[int, Field(ge=0, le=20, description="new attempts after a failure")] = 1
    keep_weights: Annotated[bool, Field(description="export every variant under runs/<study>/weights/")] = False
    on_finish: Annotated[str | None, Field(description="command run when the study ends; gets a one-line summary on stdin")] = None

    @field_validator("devices")
    @classmethod
    def _devices_exist_in_principle(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        import re

        for device in (value,) if isinstance(value, str) else value:
            for part in device.split(","):
                if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|\d+", part.strip()):
                    raise ValueError(f'`{device}` is no device: write "auto", "cpu", "cuda:0" or a list of such')
        return value


class Spec(Table):
    """A whole study."""

    study: Study
    models: Annotated[tuple[Model, ...], Field(min_length=1, description="models to compress")]
    calibration: Calibration = Calibration()
    compression: Annotated[tuple[AnyCompression, ...], Field(description="variants beside dense")] = ()
    text: Annotated[dict[Name, TextSource], Field(description="named text sources")] = {}
    evaluation: Evaluation = Evaluation()
    execution: Execution = Execution()

    @field_validator("models")
    @classmethod
    def _models_differ(cls, value: tuple[Model, ...]) -> tuple[Model, ...]:
        _unique(tuple(model.id for model in value))
        return value

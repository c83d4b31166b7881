"""Every table and key of a study spec, with type, bounds, default and description.

``docs/spec.md`` and the JSON schema are generated from this file. Tables are strict: TOML has types, so ``bits = "4"`` is an
error.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import reduce
from itertools import product
from math import prod
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from studyctl.contract.hypotheses import By, Measure, Metric
from studyctl.contract.identity import Bos, FidelityMetric, Purpose, short_name
from studyctl.contract.methods import METHODS, Dense, MethodSettings, tag_of, uses_data
from studyctl.contract.steps import BATCH_WINDOWS
from studyctl.errors import closest


def problems_inside(*problems: tuple[tuple[str | int, ...], str]) -> PydanticCustomError:
    """Return an error for a validator to raise, from any number of ``(place within the validated value, what is wrong)``."""
    what = "; ".join(what for _, what in problems)
    return PydanticCustomError("problems_inside", "{what}", {"what": what, "problems": list(problems)})


def _repeated(
    values: tuple[Any, ...], prefix: tuple[str, ...] = ()
) -> list[tuple[tuple[str | int, ...], str]]:
    first: dict[Any, int] = {}
    again = [index for index, value in enumerate(values) if first.setdefault(value, index) != index]
    names = {
        index: "this" if isinstance(values[index], BaseModel) else f"`{values[index]}`" for index in again
    }
    return [((*prefix, index), f"{name} is listed twice") for index, name in names.items()]


def _all_different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if problems := _repeated(values):
        raise problems_inside(*problems)
    return values


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=100)]
Language = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)]
Languages = Annotated[
    tuple[Language, ...], Field(min_length=1, max_length=1000, strict=False), AfterValidator(_all_different)
]
Text = Annotated[str, Field(min_length=1)]
Samples = Annotated[int, Field(ge=1, le=100_000, description="number of windows")]
SequenceLength = Annotated[int, Field(ge=2, le=1_000_000)]

MOST_TRIALS = 200_000
"""A study with more is refused: twice what is measured to stay fast, and years of work."""

BUNDLED_TEXTS = ("pocket",)
"""Text sources that need no ``[text]`` table."""
BUNDLED_LANGUAGES = ("ar", "de", "en", "es", "ru", "sw", "zh")
"""Languages of the bundled texts."""
LANGUAGE_NAMES = {
    "arabic": "ar", "german": "de", "english": "en", "spanish": "es", "russian": "ru", "swahili": "sw", "chinese": "zh",
}  # fmt: skip
"""What people call them."""


_SIZE = re.compile(r"\s*(\d*\.?\d+)\s*([A-Za-z]*)\s*")
LEAST_BARE_SIZE = 1 << 10
"""A size without a unit is in bytes; whoever writes fewer than these has left the unit out."""


def _size(value: Any) -> Any:
    """Refuse what Pydantic takes for a size and nobody means: text after the unit, and a few bytes."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    bare = float(match[1]) if match and not match[2] else value
    is_few = isinstance(bare, int | float) and not isinstance(bare, bool) and bare < LEAST_BARE_SIZE
    if (isinstance(value, str) and match is None) or (is_few and bare != 0):
        raise PydanticCustomError("byte_size", "no size")
    return value


Size = Annotated[ByteSize, BeforeValidator(_size)]
"""``"20 GiB"``; 0 for nothing."""


class Table(BaseModel):
    """A table of the spec: unknown keys are errors, values never change."""

    # Building a validator takes a millisecond per table, so it waits for the first spec that is read.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, defer_build=True)


class Study(Table):
    """Name of the study, and the spec that it builds on."""

    name: Name = Field(description="name of the study's folder under `runs/`")
    title: str = Field("", description="shown above the results")
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...],
        Field(
            min_length=1,
            strict=False,
            description="every trial that draws at random (its calibration windows) runs once per seed",
        ),
        AfterValidator(_all_different),
    ] = (0,)
    extends: str | None = Field(
        None,
        min_length=1,
        description="path of a .toml file to build on, relative to this one: tables are merged key by key, arrays and values replaced",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str) -> str:
        if not value.strip("."):
            raise problems_inside(((), f"`{value}` cannot be the name of a folder"))
        return value


class Model(Table):
    """A model to compress and measure."""

    id: Text = Field(description="hub id, folder (relative to the spec), or `package:<module>/<file>.gguf`")
    revision: Text = Field(
        "main", description="branch, tag or commit of a hub model; resolved to a commit and recorded"
    )
    dtype: Literal["bfloat16", "float16", "float32", "auto"] = Field(
        "auto", description="auto: bfloat16 where the device computes it natively, else float32"
    )
    bos: Bos = Field(
        "auto",
        description="begin-of-sequence token before every window and context; auto: as the model's tokenizer does by default",
    )
    chat_template: bool = Field(
        False, description="apply the model's chat template to task prompts, as lm-eval does"
    )
    allow_pickle: bool = Field(
        False, description="load weights that exist only as pickle; unpickling can run any code"
    )

    @property
    def short_name(self) -> str:
        """Return the last part of the id, without ``.gguf``."""
        return short_name(self.id)


class Calibration(Table):
    """The calibration text of every variant that does not override it."""

    source: Text = Field("c4", description="a named text source")
    languages: Languages = Field(("en",), description="windows are taken from them in turn")
    samples: Samples = Field(128, description="number of windows")
    sequence_length: SequenceLength = Field(2048, description="tokens per window")
    ids: str | None = Field(
        None,
        min_length=1,
        description="exact token ids instead: an int32 .npy file `[samples, tokens]`; `{model}` stands for the last part of the model's id",
    )


class CalibrationOverride(Table):
    """Overrides of ``[calibration]`` for a variant."""

    source: str | None = Field(None, min_length=1, description="a named text source")
    languages: Languages | None = Field(None, description="windows are taken from them in turn")
    samples: Samples | None = Field(None, description="number of windows")
    sequence_length: SequenceLength | None = Field(None, description="tokens per window")
    ids: str | None = Field(None, min_length=1, description="exact token ids instead")

    def applied_to(self, base: Calibration) -> Calibration:
        """Return ``base`` with these keys replaced."""
        return Calibration(**(base.model_dump() | self.model_dump(exclude_none=True)))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _names(value: Any) -> Any:
    return None if value is None else _as_tuple(value)


def _numbers(value: Any) -> Any:
    """Return a number, or each of a list, as a float: 4 and 4.0 select the same."""
    if value is None:
        return None
    return tuple(
        float(item) if isinstance(item, int) and not isinstance(item, bool) else item
        for item in _as_tuple(value)
    )


Backend = Literal["studyctl", "autoawq", "auto-gptq", "gptqmodel", "llm-compressor"]


class CompressionTable(Table):
    """A ``[[compression]]`` table: a method whose options may be lists; several lists multiply."""

    settings_type: ClassVar[type[MethodSettings]]

    method: Any = Field(description="how the weights are compressed")
    models: tuple[Text, ...] = Field(
        ("*",),
        min_length=1,
        strict=False,
        description="only models whose id matches one of these patterns (`*`, `?`)",
    )
    calibration: Annotated[
        tuple[CalibrationOverride, ...],
        BeforeValidator(_as_tuple),
        Field(
            min_length=1,
            default_factory=lambda: (CalibrationOverride(),),
            description="overrides of `[calibration]`; a list sweeps",
        ),
    ]
    backend: Annotated[
        tuple[Backend, ...],
        BeforeValidator(_as_tuple),
        Field(min_length=1, description="the package that compresses; a list sweeps"),
    ] = ("studyctl",)

    @property
    def swept(self) -> frozenset[str]:
        """Return the options that are lists of several values."""
        return frozenset(name for name in self.sweepable() if len(getattr(self, name)) > 1)

    @property
    def variants(self) -> int:
        """Return the number of variants: of the combinations of all lists."""
        return prod(len(getattr(self, name)) for name in self.sweepable())

    @property
    def uses_data(self) -> bool:
        """Return whether a variant of this table needs calibration data."""
        # Asked first, as a table of another method may have 200,000 variants.
        return self.settings_type.needs_data and any(uses_data(settings) for settings, _, _ in self.expand())

    def covers(self, model_id: str) -> bool:
        """Return whether this table applies to a model."""
        return any(fnmatchcase(model_id, pattern) for pattern in self.models)

    def expand(self) -> Iterator[tuple[MethodSettings, CalibrationOverride, Backend]]:
        """Yield the settings of every combination of the listed values; the last option changes fastest."""
        for options, calibration, backend in product(self._options(), self.calibration, self.backend):
            yield self.settings_type(method=self.method, **options), calibration, backend

    @classmethod
    def sweepable(cls) -> tuple[str, ...]:
        """Return the keys that may be lists: the method's options, the calibration and the backend."""
        return (*options_of(cls.settings_type), "calibration", "backend")

    def _options(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the listed options."""
        names = options_of(self.settings_type)
        for values in product(*(getattr(self, name) for name in names)):
            yield dict(zip(names, values, strict=True))

    @model_validator(mode="after")
    def _every_combination_is_valid(self) -> Self:
        if self.variants > MOST_TRIALS:
            lists = [(name, len(getattr(self, name))) for name in self.sweepable()]
            factors = " × ".join(f"{count:,} {name}" for name, count in lists if count > 1)
            what = f"this asks for {self.variants:,} variants ({factors}); a study has at most {MOST_TRIALS:,} trials"
            raise problems_inside(((), what))
        problems = [item for name in self.sweepable() for item in _repeated(getattr(self, name), (name,))]
        for options in self._options():
            try:
                self.settings_type(method=self.method, **options)
            except ValidationError as error:
                problems += [
                    (self._place(item["loc"], options), item["msg"].removeprefix("Value error, "))
                    for item in error.errors()
                ]
        if problems:
            raise problems_inside(*dict.fromkeys(problems))
        return self

    def _place(self, loc: tuple[str | int, ...], options: dict[str, Any]) -> tuple[str | int, ...]:
        """Return the place in this table of the value that one combination's settings refuse."""
        if loc:
            name = str(loc[0])
            return (name, getattr(self, name).index(options[name])) if name in options else (name,)
        both = {"pattern", "sparsity"} <= self.model_fields_set
        return ("pattern",) if both else ()


def options_of(settings: type[MethodSettings]) -> tuple[str, ...]:
    """Return the options of a method: all its settings but its name."""
    return tuple(name for name in settings.model_fields if name != "method")


def _sweeping(settings: type[MethodSettings]) -> type[CompressionTable]:
    """Return the table of a method: its settings, with a list allowed in place of every value."""
    method: Any = settings.model_fields["method"].annotation
    described = Field(..., description=CompressionTable.model_fields["method"].description)
    pair = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
    fields: dict[str, Any] = {"method": (Annotated[method, pair], described)}
    for name in options_of(settings):
        field = settings.model_fields[name]
        item = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        # Any, because the type exists only at run time.
        annotation: Any = Annotated[tuple[item, ...], BeforeValidator(_as_tuple)]  # type: ignore[valid-type]
        default = ... if field.is_required() else (field.default,)
        fields[name] = (annotation, Field(default, min_length=1, description=field.description))
    table = create_model(
        f"{settings.__name__}Table", __base__=CompressionTable, __doc__=settings.__doc__, **fields
    )
    table.settings_type = settings
    return table


TABLES: dict[str, type[CompressionTable]] = {
    name: _sweeping(row.settings) for name, row in METHODS.items() if row.settings is not Dense
}
"""The ``[[compression]]`` table of every method, by its tag."""


def method_tag(value: Any) -> str:
    """Return the tag of a compression table's ``method``: a key of :data:`TABLES` if the method is valid."""
    is_table = isinstance(value, dict)
    method = value.get("method") if is_table else getattr(value, "method", None)
    return tag_of(method, has_grid="grid" in value if is_table else hasattr(value, "grid"))


if TYPE_CHECKING:
    AnyCompression = CompressionTable
else:
    _tagged = tuple(Annotated[table, Tag(tag)] for tag, table in TABLES.items())
    AnyCompression = Annotated[reduce(or_, _tagged), Discriminator(method_tag)]


class TextFile(Table):
    """The file of a language, where its text is in another field than that of the source."""

    file: Text = Field(description="path or pattern, as in `files`")
    field: Text | None = Field(
        None, description="field or column that holds the text; default: that of the source"
    )


class TextSource(Table):
    """A named text: a hub dataset, or local files."""

    dataset: str | None = Field(None, min_length=1, description="hub id of a dataset")
    revision: Text = Field("main", description="branch, tag or commit of the dataset")
    config: Text | dict[Language, Text] | None = Field(
        None, description="configuration of the dataset, or a table with one per language"
    )
    split: Annotated[
        Text | dict[Purpose, Text],
        Field(
            default_factory=lambda: {"calibration": "train", "perplexity": "validation"},
            description="split of the dataset, or a table with one per purpose",
        ),
    ]
    files: Text | dict[Purpose, Text | dict[Language, Text | TextFile]] | None = Field(
        None,
        description="local files instead (.jsonl, .txt, also with .gz; .parquet), relative to the spec; or a table by purpose, of paths or of "
        'tables by language: `{ calibration = { ar = "a/*.txt", de = "b.jsonl" } }`, where `{ file = "b.jsonl", field = "body" }` names the field of one language. `{language}` is filled in; `*`, `**` and `?` take '
        "several files, in the order of their names",
    )
    field: Text = Field("text", description="field or column that holds the text")

    @model_validator(mode="after")
    def _either_dataset_or_files(self) -> Self:
        if self.dataset is not None and self.files is not None:
            raise problems_inside((("files",), "a text source has `dataset` or `files`, not both"))
        if self.dataset is None and self.files is None:
            raise problems_inside(((), "a text source needs `dataset` or `files`"))
        for purpose, entry in self.files.items() if isinstance(self.files, dict) else ():
            if isinstance(entry, dict) and entry.keys() <= TextFile.model_fields.keys():
                what = "`file` and `field` belong to a language: `{ de = { file = …, field = … } }`"
                raise problems_inside((("files", purpose), what))
        return self

    def file_of(self, purpose: Purpose, language: str) -> TextFile | None:
        """Return the file or files of a language; None if there are none for this purpose or language."""
        of_purpose = self.files.get(purpose) if isinstance(self.files, dict) else self.files
        entry = of_purpose.get(language) if isinstance(of_purpose, dict) else of_purpose
        if entry is None:
            return None
        path, field = (entry, None) if isinstance(entry, str) else (entry.file, entry.field)
        return TextFile(file=path.replace("{language}", language), field=field)


class Perplexity(Table):
    """Perplexity and bits per byte in each language."""

    source: Text = Field("c4", description="a named text source")
    languages: Languages = Field(("en",), description="languages to measure")
    sequence_length: SequenceLength = Field(2048, description="tokens per window, including a BOS")
    windows: int = Field(
        128,
        ge=0,
        le=1_000_000,
        description="windows per language, in random order over the whole text (of a hub dataset: within segments of 256 windows); 0: all",
    )


class Fidelity(Table):
    """Distance to the dense model on the perplexity windows; ``metrics`` are computed in the same forward pass as perplexity."""

    metrics: Annotated[
        tuple[FidelityMetric, ...],
        Field(
            min_length=1,
            strict=False,
            description="kl: KL(dense || compressed) in nats; top1: top-1 agreement; "
            "snr: signal-to-noise ratio of the logits in dB",
        ),
        AfterValidator(_all_different),
    ] = ("kl", "top1", "snr")
    activations: bool = Field(
        False,
        description="also measure, as a step of its own, the signal-to-noise ratio and relative error of the hidden state after each "
        f"decoder block, on the first {BATCH_WINDOWS} windows of each language",
    )


class TaskData(Table):
    """Local files in place of a task's own data."""

    test: Text = Field(description="items to score")
    fewshot: str | None = Field(None, min_length=1, description="items that few-shot examples are drawn from")


class OwnTask(Table):
    """A multiple-choice task in one file: each row is a question with choices, of which one is right."""

    file: Text = Field(
        description="items, relative to the spec: .csv, .tsv, .jsonl or .parquet, with a header or field names"
    )
    question: Annotated[
        tuple[Text, ...],
        BeforeValidator(_as_tuple),
        Field(
            min_length=1,
            description="column of the question, or a list of columns, joined line by line: passage, question",
        ),
    ] = ("question",)
    choices: Annotated[
        tuple[Text, ...],
        BeforeValidator(_as_tuple),
        Field(
            min_length=1,
            description="column that lists the choices (`choices.text`: the field `text` of each), or a list with a column for each",
        ),
    ] = ("choices",)
    answer: Text = Field(
        "answer", description="column of the right answer: its text, a letter (A is the first), or a number"
    )
    first_number: Literal[0, 1] | None = Field(
        None,
        description="number of the first choice, where answers are numbers; default: told by the answers",
    )
    language: Language | None = Field(
        None, description="language of the questions, shown with the task and in SQL; it changes no result"
    )


class Tasks(Table):
    """Accuracy on tasks, as lm-eval defines them."""

    names: Annotated[
        tuple[Text, ...],
        Field(max_length=1000, strict=False, description="lm-eval tasks"),
        AfterValidator(_all_different),
    ] = ()
    own: dict[Name, OwnTask] = Field(
        default_factory=dict, max_length=1000, description="multiple-choice tasks of your own, by name"
    )
    shots: int = Field(0, ge=0, le=64, description="few-shot examples before each item")
    limit: int = Field(0, ge=0, le=1_000_000_000, description="the first n items; 0: every item")
    include: tuple[Text, ...] = Field(
        (),
        strict=False,
        description="folders with lm-eval YAML files, relative to the spec; `pocket` is bundled",
    )
    data: dict[Text, Text | TaskData] = Field(
        default_factory=dict,
        description="by task: local file of items to use instead of the hub's",
    )
    main: dict[Text, Text] = Field(
        default_factory=dict,
        description="by task: the main metric, which tables and means show; default: lm-eval's first",
    )
    keep_texts: bool = Field(
        True,
        description="keep prompts, choices and answers of items in the study, so that flips can be read; `false` for test sets that must not get about. It changes no result",
    )

    @property
    def all_names(self) -> tuple[str, ...]:
        """Return the names of all tasks, those of the user last."""
        return (*self.names, *self.own)

    @model_validator(mode="after")
    def _has_tasks_of_different_names(self) -> Self:
        if not self.all_names:
            raise problems_inside(
                ((), "`[evaluation.tasks]` needs `names`, or a task in `[evaluation.tasks.own.NAME]`")
            )
        if both := [name for name in self.own if name in self.names]:
            problems = [(("own", name), f"`{name}` is in `names` too: give it another name") for name in both]
            raise problems_inside(*problems)
        return self


class Speed(Table):
    """Speed and memory of the files that llama.cpp runs, on the machine that runs the study."""

    threads: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1024)], ...],
        Field(strict=False, max_length=8, description="threads of the runtime; default: the machine's cores"),
        AfterValidator(_all_different),
    ] = ()
    prompt: int = Field(512, ge=1, le=100_000, description="tokens of the prompt")
    generate: int = Field(64, ge=1, le=10_000, description="tokens to generate after it")
    rounds: int = Field(
        7, ge=3, le=1000, description="how often each file is timed, in an order that is drawn anew"
    )
    max_rounds: int = Field(
        31,
        ge=3,
        le=1000,
        description="rounds go on until dense against itself is known to 5 %, at most so many times",
    )
    windows: int = Field(
        2,
        ge=0,
        le=BATCH_WINDOWS,
        description="windows of each language on which the runtime's own logits are compared with dense; 0: none",
    )

    @model_validator(mode="after")
    def _more_rounds_are_no_fewer(self) -> Self:
        if self.max_rounds < self.rounds:
            what = f"`max_rounds` is less than the {self.rounds} rounds"
            raise problems_inside(
                (("max_rounds",) if "max_rounds" in self.model_fields_set else ("rounds",), what)
            )
        return self


class Evaluation(Table):
    """What is measured. A kind of evaluation without a table is left out."""

    perplexity: Perplexity | None = Field(None, description="perplexity and bits per byte in each language")
    fidelity: Fidelity | None = Field(None, description="distance to the dense model")
    tasks: Tasks | None = Field(None, description="accuracy on tasks")
    speed: Speed | None = Field(None, description="speed and memory of the files that llama.cpp runs")

    @model_validator(mode="after")
    def _fidelity_has_windows(self) -> Self:
        if self.fidelity is not None and self.perplexity is None:
            what = "fidelity is measured on the perplexity windows: add `[evaluation.perplexity]`"
            raise problems_inside((("fidelity",), what))
        return self


Names = Annotated[tuple[Text, ...] | None, BeforeValidator(_names)]


class Selector(Table):
    """Variants of a hypothesis: those that meet every key; without a key, all that are compressed."""

    methods: Names = Field(None, description="such as `gptq`, or `sparsegpt+awq` for a combination")
    backends: Names = Field(None, description="the package that compressed")
    bits: Annotated[tuple[Annotated[float, Field(gt=0, le=16)], ...] | None, BeforeValidator(_numbers)] = (
        Field(None, description="bits of a quantized weight")
    )
    sparsity: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...] | None, BeforeValidator(_numbers)] = (
        Field(None, description="share of weights that is pruned; 0.5 also for 2:4")
    )
    names: Names = Field(
        None, description="names of variants, with `*` and `?`; `dense` for the model itself"
    )


class Match(Table):
    """Which variants of the two sides belong together."""

    left: Selector = Field(default_factory=Selector, description="narrows the left side")
    right: Selector = Field(default_factory=Selector, description="narrows the right side")


class InteractionTable(Table):
    """Two groups of languages or tasks between which the difference may differ."""

    of: Literal["language", "task"] = Field(description="what the groups are made of")
    levels: Annotated[
        tuple[Annotated[tuple[Text, ...], Field(min_length=1, strict=False)], ...],
        Field(min_length=2, max_length=2, strict=False),
    ] = Field(description="the two groups")


class Hypothesis(Table):
    """A claim about the variants, which the results are tested against."""

    name: Name = Field(description="how the claim is called in results")
    claim: str = Field("", description="the claim, in words")
    metric: Text | None = Field(
        None,
        description="bits_per_byte, kl_ratio, ppl_ratio, top1, snr, accuracy, accuracy:<task>, gold_nats, gold_nats:<task> "
        "or size_mib; default: kl_ratio where `generalize` has models",
    )
    left: Selector | None = Field(None, description="the variants that the claim is about")
    right: Selector | None = Field(None, description="those that they are compared with")
    match: tuple[Match, ...] = Field(
        (), strict=False, description="pairs of sides, such as 8 bits with 50 %; default: all of both sides"
    )
    combine: Literal["mean", "every"] = Field(
        "mean", description="several pairs: mean of their differences, or the claim must hold for every pair"
    )
    alternative: Literal["better", "worse", "different", "no_worse"] = Field(
        "better", description="what is claimed of the left side; no_worse: not worse by `margin` or more"
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="differences up to it do not matter; default: 0.002 of bits_per_byte and ppl_ratio, 0.05 of the logarithm "
        "of kl_ratio, 0.005 of accuracy and top1, none of the others",
    )
    generalize: Literal["windows", "languages", "models", "languages+models"] = Field(
        "windows", description="what the verdict is about: these models and languages, or others like them"
    )
    family: Name = Field("main", description="hypotheses whose p are adjusted together (Holm)")
    by: Literal["language", "model", "task"] | None = Field(
        None, description="a verdict for each of them, as a family of its own"
    )
    interaction: InteractionTable | None = Field(
        None, description="does the difference between the sides differ between two groups?"
    )
    rank_agreement: Annotated[tuple[Text, ...], Field(min_length=2, max_length=2, strict=False)] | None = (
        Field(
            None, description="two metrics, in place of `metric`: do they put all variants in the same order?"
        )
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return what is compared: one metric, or two orders.

        Raises:
            ValueError: there is no such metric.
        """
        if self.rank_agreement is not None:
            return tuple(map(Metric.parse, self.rank_agreement))
        return (Metric.parse(self.metric or Measure.KL_RATIO),)

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        problems = list(self._metric_problems())
        if self.rank_agreement is not None:
            without = (
                "metric",
                "left",
                "right",
                "match",
                "combine",
                "alternative",
                "margin",
                "by",
                "interaction",
            )
            problems += [
                ((name,), f"`{name}` has no meaning with `rank_agreement`, which compares all variants")
                for name in without
                if name in self.model_fields_set
            ]
        elif self.left is None or self.right is None:
            missing = "left" if self.left is None else "right"
            problems.append(((), f"`{missing}` is missing: which variants are compared?"))
        if not problems and self.metrics[0].measure is Measure.SIZE_MIB:
            problems += [
                ((name,), f"sizes are compared, not tested: leave `{name}` out")
                for name in ("generalize", "by", "interaction")
                if name in self.model_fields_set
            ]
        elif not problems:
            problems += self._level_problems()
        if problems:
            raise problems_inside(*problems)
        return self

    def _metric_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        places: list[tuple[tuple[str | int, ...], str]] = [
            (("rank_agreement", index), name) for index, name in enumerate(self.rank_agreement or ())
        ]
        if self.metric is not None:
            places.append((("metric",), self.metric))
        elif self.rank_agreement is None and "models" not in self.generalize:
            yield (), f"`metric` is missing: {', '.join(Measure)}"
        for loc, name in places:
            try:
                metric = Metric.parse(name)
            except ValueError:
                near = closest(name.partition(":")[0], list(Measure))
                yield (
                    loc,
                    f"there is no metric `{name}`; "
                    + (f"did you mean `{near}`?" if near else f"metrics are {', '.join(Measure)}"),
                )
                continue
            if metric.measure is Measure.SIZE_MIB and self.rank_agreement is not None:
                yield loc, "sizes are compared, not tested"

    def _level_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield levels and rows that the metric does not have."""
        measure = self.metrics[0].measure
        of_tasks = any(metric.measure.is_of_tasks for metric in self.metrics)
        if self.alternative == "no_worse" and self.margin is None and measure.margin is None:
            yield (), f"`no_worse` needs a `margin`: {measure} has no default"
        if of_tasks and "languages" in self.generalize:
            what = "items of tasks are in no language here: generalize over windows (items) or models"
            yield ("generalize",), what
        if self.by is not None and self.by + "s" in self.generalize.split("+"):
            what = f"one {self.by} each says nothing of other {self.by}s: leave `by` or `generalize` out"
            yield ("by",), what
        if self.interaction is not None:
            yield from self._interaction_problems()
        for loc, kind in self._groups():
            if (kind is By.TASK) != of_tasks or self.metrics[0].task is not None:
                yield loc, f"{self.metrics[0]} is not measured by {kind}"

    def _interaction_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.by is not None:
            yield ("by",), "`interaction` already compares groups: leave `by` out"
        if "generalize" in self.model_fields_set:
            what = "an interaction is tested over its languages or tasks: leave `generalize` out"
            yield ("generalize",), what

    def _groups(self) -> Iterator[tuple[tuple[str | int, ...], By]]:
        """Yield the places that divide the figures by language or by task."""
        if self.by is not None and By(self.by) is not By.MODEL:
            yield ("by",), By(self.by)
        if self.interaction is not None:
            yield ("interaction", "of"), By(self.interaction.of)


_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|\d+")


class Execution(Table):
    """How the study is run; nothing here changes a result."""

    devices: Text | Annotated[tuple[Text, ...], Field(min_length=1, strict=False)] = Field(
        "auto",
        description='`"auto"`, `"cpu"`, `"cuda:0,1"` or a list of devices; one worker per device. GPUs are those that `CUDA_VISIBLE_DEVICES` shows to torch, counted from 0',
    )
    retries: int = Field(1, ge=0, le=20, description="new attempts after a failure")
    keep_trial_weights: Size = Field(
        ByteSize(20 << 30),
        description='how much of the weights of finished trials is kept, such as `"20 GiB"` (0: none): an added language, task or metric is then measured without compressing again. The least recently used are deleted first',
    )
    keep_weights: bool = Field(False, description="export every variant under `runs/<study>/weights/`")
    backend_network: bool = Field(
        False, description="let the processes of other packages (`backend`) use the network"
    )
    on_finish: str | None = Field(
        None,
        min_length=1,
        description="command run when the study ends; gets a one-line summary on stdin, and `STUDYCTL_DATABASE` and others as variables (docs/cli.md)",
    )

    @field_validator("devices")
    @classmethod
    def _devices_have_valid_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        places: dict[tuple[int, ...], str] = (
            {(): value}
            if isinstance(value, str)
            else {(index,): device for index, device in enumerate(value)}
        )
        problems = [
            (place, f'`{device}` is not a device: write "auto", "cpu", "cuda:0" or a list of these')
            for place, device in places.items()
            if not all(_DEVICE.fullmatch(part.strip()) for part in device.split(","))
        ]
        if problems:
            raise problems_inside(*problems)
        return value


class Spec(Table):
    """A whole study."""

    study: Study = Field(description="name and title of the study")
    models: tuple[Model, ...] = Field(
        min_length=1, strict=False, description="models to compress and measure"
    )
    calibration: Calibration = Field(
        default_factory=Calibration, description="text for the methods that need calibration data"
    )
    compression: tuple[AnyCompression, ...] = Field(
        (), strict=False, description="variants to compare with dense"
    )
    text: dict[Name, TextSource] = Field(default_factory=dict, description="named text sources")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="what is measured")
    hypotheses: tuple[Hypothesis, ...] = Field(
        (), strict=False, description="claims that the results are tested against"
    )
    execution: Execution = Field(default_factory=Execution, description="how the study is run")

    @field_validator("models")
    @classmethod
    def _models_differ(cls, value: tuple[Model, ...]) -> tuple[Model, ...]:
        if ids := _repeated(tuple(model.id for model in value)):
            raise problems_inside(*(((*loc, "id"), what) for loc, what in ids))
        return value

    @field_validator("hypotheses")
    @classmethod
    def _hypotheses_differ(cls, value: tuple[Hypothesis, ...]) -> tuple[Hypothesis, ...]:
        if names := _repeated(tuple(hypothesis.name for hypothesis in value)):
            raise problems_inside(*(((*loc, "name"), what) for loc, what in names))
        return value


TABLES_BY_HEADER: tuple[tuple[str, type[Table]], ...] = (
    ("[study]", Study),
    ("[[models]]", Model),
    ("[calibration]", Calibration),
    ("[text.<name>]", TextSource),
    ("[text.<name>.files.<purpose>.<language>]", TextFile),
    ("[evaluation]", Evaluation),
    ("[evaluation.perplexity]", Perplexity),
    ("[evaluation.fidelity]", Fidelity),
    ("[evaluation.tasks]", Tasks),
    ("[evaluation.tasks.own.<name>]", OwnTask),
    ("[evaluation.tasks.data.<task>]", TaskData),
    ("[evaluation.speed]", Speed),
    ("[[hypotheses]]", Hypothesis),
    ("[hypotheses.<selector>]", Selector),
    ("[[hypotheses.match]]", Match),
    ("[hypotheses.interaction]", InteractionTable),
    ("[execution]", Execution),
)
"""All tables but the ``[[compression]]`` of each method."""

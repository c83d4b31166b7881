"""The settings of each compression method, named as in the papers and their code.

One frozen object per method travels from the spec to the method's module. This file imports no torch, so that a spec can
be read and planned without it. :data:`METHODS` names the functions that do the work; they are imported on use.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeGuard, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import override

from studyctl.contract.gguf import GRID_PREFIX, SMALLEST_BLOCK, Preset
from studyctl.contract.identity import short_name
from studyctl.errors import StudyError

Order = Annotated[
    Literal["block", "stage"],
    Field(
        description="block: every linear of a block sees the uncompressed block's activations (Wanda's and SparseGPT's code); "
        "stage: later linears see the earlier ones compressed (GPTQ's true sequential)"
    ),
]
Propagate = Annotated[
    Literal["compressed", "dense"],
    Field(description="whose outputs are the next block's inputs: the compressed block's or the dense one's"),
]
Damping = Annotated[
    float, Field(gt=0, le=10, description="added to the diagonal of H, as a fraction of its mean")
]
BlockSize = Annotated[
    int, Field(ge=1, le=4096, description="columns that are swept before the later ones are updated at once")
]
ActOrder = Annotated[bool, Field(description="sweep columns in order of decreasing diag(H)")]
StaticGroups = Annotated[bool, Field(description="scales and zero points are fixed before the sweep")]
Objective = Annotated[
    Literal["linear", "block"],
    Field(
        description="output error that the scale search minimises: of the scaled linears, or of the whole attention or MLP"
    ),
]
WeightTerm = Annotated[bool, Field(description="s = x^a / w^(1-a) instead of x^a")]
Ratios = Annotated[int, Field(ge=1, le=1000, description="values of the exponent a that are tried")]
Clip = Annotated[bool, Field(description="search for the best clipping of weight ranges after scaling")]
Target = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="whose outputs a linear is to keep: 0 those on the compressed model's activations, 1 those on the dense model's, "
        "0.5 half-way",
    ),
]


if TYPE_CHECKING:
    PresetName = str
    GridName = str
else:
    PresetName = Literal[tuple(str(preset) for preset in Preset)]
    GridName = Literal[tuple(f"{GRID_PREFIX}{preset}" for preset in Preset)]
Grid = Annotated[
    GridName,
    Field(
        description="a preset of llama.cpp in place of bits and group_size: its types of blocks, mixed as in its own files"
    ),
]


class MethodSettings(BaseModel):
    """What every method's settings have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs_data: ClassVar[bool] = False
    """Whether the method uses calibration activations; :func:`uses_data` tells of one variant."""
    draws: ClassVar[bool] = False
    """Whether the method draws at random (``LinearGroup.seed``): its trials run once for each seed of the study."""
    changes_vocabulary: ClassVar[bool] = False
    """Whether embeddings and head change too, and not only decoder blocks."""

    named_fields: ClassVar[frozenset[str]] = frozenset({"method"})
    """Fields that a variant's name always shows, as its method or through :meth:`name_parts`."""

    method: str

    def name_parts(self) -> list[str]:
        """Return the parts of a variant's name that are always shown, such as ``["4bit", "g64"]``."""
        return []

    def bits_per_weight(self, in_features: int) -> float:
        """Return the bits per weight of a linear with this many inputs, including masks, scales and zero points.

        Scales are counted at 16 bits. Unstructured sparsity is counted with a bitmap: ``min(16, 16 · density + 1)``.
        """
        raise NotImplementedError

    def stored_bytes(self, out: int, in_features: int, float_bytes: float) -> float:
        """Return the bytes of a linear's weight ``[out, in]`` in an exported folder, if a float takes this many."""
        return out * in_features * float_bytes  # zeros are stored like other weights

    def problem_with(self, in_features: int) -> tuple[str, str] | None:
        """Return ``(field, reason)`` if these settings do not fit a linear with this many inputs."""
        return None


class Dense(MethodSettings):
    """The uncompressed model."""

    method: Literal["dense"] = "dense"

    @override
    def bits_per_weight(self, in_features: int) -> float:
        return 16.0


class Pruning(MethodSettings):
    """Sets weights to zero: a fraction of them, or a fixed number of every m consecutive inputs."""

    named_fields: ClassVar[frozenset[str]] = frozenset({"method", "sparsity", "pattern"})

    sparsity: float | None = Field(None, ge=0, lt=1, description="fraction of the weights set to zero")
    pattern: str | None = Field(
        None,
        pattern=r"^[1-9]\d*:[1-9]\d*$",
        description="n:m, keeps n of every m consecutive inputs; determines the sparsity",
    )

    @field_validator("pattern")
    @classmethod
    def _pattern_keeps_fewer_than_all(cls, value: str | None) -> str | None:
        kept, group = map(int, value.split(":")) if value else (0, 1)
        if kept >= group:
            what = f"`{value}` keeps {kept} of {group}, so it prunes nothing; n must be smaller than m"
            raise ValueError(what)
        return value

    @model_validator(mode="after")
    def _either_sparsity_or_pattern(self) -> Self:
        if (self.sparsity is None) == (self.pattern is None):
            if self.pattern is None:
                raise ValueError("needs `sparsity` or `pattern`")
            raise ValueError("a pattern fixes the sparsity: give one of the two")
        return self

    @property
    def group(self) -> tuple[int, int] | None:
        """Return ``(n, m)`` of an n:m pattern, or None for unstructured sparsity."""
        if self.pattern is None:
            return None
        kept, group = map(int, self.pattern.split(":"))
        return kept, group

    @property
    def target_sparsity(self) -> float:
        """Return the fraction of weights to zero, also for n:m."""
        if self.group is not None:
            return 1 - self.group[0] / self.group[1]
        assert self.sparsity is not None  # the validator above
        return self.sparsity

    @override
    def name_parts(self) -> list[str]:
        return [self.pattern if self.pattern is not None else f"{self.sparsity:g}"]

    @override
    def bits_per_weight(self, in_features: int) -> float:
        return min(16.0, 16 * (1 - self.target_sparsity) + 1)

    @override
    def problem_with(self, in_features: int) -> tuple[str, str] | None:
        if self.group is not None and in_features % self.group[1]:
            return "pattern", f"pattern {self.pattern} does not divide"
        return None


class Magnitude(Pruning):
    """Prunes the smallest weights of each linear (n:m: of every m consecutive inputs)."""

    method: Literal["magnitude"] = "magnitude"


class Wanda(Pruning):
    """Prunes the weights with the smallest ``|w| · ‖x_j‖₂`` of each output row (Sun et al. 2024)."""

    needs_data: ClassVar[bool] = True
    method: Literal["wanda"] = "wanda"
    order: Order = "block"
    propagate: Propagate = "compressed"


class SparseGPT(Pruning):
    """Optimal-brain-surgeon sweep: prunes and compensates column by column (Frantar & Alistarh 2023)."""

    needs_data: ClassVar[bool] = True
    method: Literal["sparsegpt"] = "sparsegpt"
    block_size: BlockSize = 128
    damping: Damping = 0.01
    order: Order = "stage"
    propagate: Propagate = "compressed"


class Quantization(MethodSettings):
    """Rounds weights to a grid of ``2**bits`` values per group of consecutive inputs."""

    named_fields: ClassVar[frozenset[str]] = frozenset({"method", "bits", "group_size"})

    bits: int = Field(4, ge=2, le=8, description="bits per code")
    group_size: int = Field(
        128,
        ge=0,
        le=1_000_000,
        description="consecutive inputs that share a scale; 0: one scale per output channel",
    )
    symmetric: bool = Field(False, description="symmetric about zero, without a zero point")

    @override
    def name_parts(self) -> list[str]:
        return [f"{self.bits}bit", f"g{self.group_size}"]

    @override
    def bits_per_weight(self, in_features: int) -> float:
        group = self.group_size or in_features
        return self.bits + (16 + (0 if self.symmetric else self.bits)) / group

    @override
    def stored_bytes(self, out: int, in_features: int, float_bytes: float) -> float:
        # The layout pack-quantized: studyctl.compress.weights.packing.
        codes_per_word = 8 if self.bits <= 4 else 4
        groups = in_features // (self.group_size or in_features)
        words = out * -(-in_features // codes_per_word)
        if not self.symmetric:
            words += groups * -(-out // codes_per_word)
        if (
            self.group_size
            and getattr(self, "act_order", False)
            and not getattr(self, "static_groups", False)
        ):
            words += in_features  # the group of every input
        return 4 * words + out * groups * float_bytes + 16  # the shape

    @override
    def problem_with(self, in_features: int) -> tuple[str, str] | None:
        if self.group_size and in_features % self.group_size:
            return "group_size", f"group_size {self.group_size} does not divide"
        return None


class RTN(Quantization):
    """Rounds each weight to the nearest grid value."""

    method: Literal["rtn"] = "rtn"


class GPTQ(Quantization):
    """Rounds column by column and compensates the error in the columns that follow (Frantar et al. 2023)."""

    needs_data: ClassVar[bool] = True
    method: Literal["gptq"] = "gptq"
    act_order: ActOrder = False
    static_groups: StaticGroups = False
    block_size: BlockSize = 128
    damping: Damping = 0.01
    order: Order = "stage"
    propagate: Propagate = "compressed"
    target: Target = 0.0

    @model_serializer(mode="wrap")
    def _without_default_target(self, plain: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Leave out a target of 0, so that results from before there was one keep their keys."""
        values = plain(self)
        return values if self.target else {name: value for name, value in values.items() if name != "target"}


class AWQ(Quantization):
    """Scales input channels by their activations before rounding, then clips weight ranges (Lin et al. 2024)."""

    needs_data: ClassVar[bool] = True
    method: Literal["awq"] = "awq"
    objective: Objective = "linear"
    weight_term: WeightTerm = False
    ratios: Ratios = 20
    clip: Clip = True
    order: Literal["block"] = Field(
        "block",
        description="scales move between the linears of a block before any is rounded, so all see the uncompressed block",
    )
    propagate: Propagate = "dense"


class PruneThenQuantize(Quantization, Pruning):
    """Prunes and quantizes in one variant, such as ``["sparsegpt", "gptq"]``, with the options of both.

    Each linear group is pruned, and its remaining weights are quantized with the same statistics; pruned weights stay 0.
    """

    needs_data: ClassVar[bool] = True
    named_fields: ClassVar[frozenset[str]] = Pruning.named_fields | Quantization.named_fields
    method: tuple[Literal["magnitude", "wanda", "sparsegpt"], Literal["rtn", "gptq", "awq"]]  # type: ignore[assignment]
    act_order: ActOrder = False
    static_groups: StaticGroups = False
    objective: Objective = "linear"
    weight_term: WeightTerm = False
    ratios: Ratios = 20
    clip: Clip = True
    block_size: BlockSize = 128
    damping: Damping = 0.01
    order: Order = "block"
    propagate: Propagate = "compressed"

    @field_validator(
        "act_order", "static_groups", "objective", "weight_term", "ratios", "clip", "block_size", "damping"
    )
    @classmethod
    def _one_of_the_two_has_it(cls, value: object, info: ValidationInfo) -> object:
        pair = info.data.get("method")
        field = info.field_name
        if pair is None or field is None or value == cls.model_fields[field].default:
            return value
        if not any(field in METHODS[name].settings.model_fields for name in pair):
            raise ValueError(f"neither {pair[0]} nor {pair[1]} has the option `{field}`")
        return value

    @field_validator("order")
    @classmethod
    def _awq_sees_the_uncompressed_block(cls, value: Order, info: ValidationInfo) -> Order:
        if value == "stage" and "awq" in info.data.get("method", ()):
            raise ValueError("awq moves scales between the linear groups of a block, so its order is block")
        return value

    @property
    def pruning(self) -> Pruning:
        """Return the settings of the method that prunes."""
        return cast(Pruning, self._part(0))

    @property
    def quantization(self) -> Quantization:
        """Return the settings of the method that quantizes."""
        return cast(Quantization, self._part(1))

    def _part(self, index: int) -> MethodSettings:
        settings = METHODS[self.method[index]].settings
        fields = type(self).model_fields.keys() & settings.model_fields.keys() - {"method"}
        return settings(method=self.method[index], **{name: getattr(self, name) for name in fields})

    @override
    def name_parts(self) -> list[str]:
        return [*Pruning.name_parts(self), *Quantization.name_parts(self)]

    @override
    def bits_per_weight(self, in_features: int) -> float:
        kept = 1 - self.target_sparsity
        quantized = Quantization.bits_per_weight(self, in_features)
        return min(quantized, self.bits * kept + 1 + (quantized - self.bits))

    @override
    def problem_with(self, in_features: int) -> tuple[str, str] | None:
        return Pruning.problem_with(self, in_features) or Quantization.problem_with(self, in_features)


class OnGguf(MethodSettings):
    """Rounds weights, embeddings and head to llama.cpp's blocks, mixed as in one of its presets."""

    changes_vocabulary: ClassVar[bool] = True
    named_fields: ClassVar[frozenset[str]] = frozenset({"method", "grid", "type", "imatrix"})

    @property
    def preset(self) -> Preset:
        """Return the mixture."""
        raise NotImplementedError

    @override
    def name_parts(self) -> list[str]:
        return [self.preset]

    @override
    def bits_per_weight(self, in_features: int) -> float:
        return self.preset.base.bits_per_weight  # an estimate: the mixture has others as well

    @override
    def stored_bytes(self, out: int, in_features: int, float_bytes: float) -> float:
        return out * in_features * self.bits_per_weight(in_features) / 8

    @override
    def problem_with(self, in_features: int) -> tuple[str, str] | None:
        if in_features % SMALLEST_BLOCK:
            return "type" if isinstance(
                self, Gguf
            ) else "grid", f"blocks of {SMALLEST_BLOCK} inputs do not divide"
        return None


class _WithGrid(OnGguf):
    grid: Grid

    @property
    @override
    def preset(self) -> Preset:
        return Preset(self.grid.removeprefix(GRID_PREFIX))


class RTNOnGguf(_WithGrid):
    """Rounds each weight to the nearest value that a block of llama.cpp can hold; the scale that loses least is searched."""

    method: Literal["rtn"] = "rtn"


class GPTQOnGguf(_WithGrid):
    """Rounds to llama.cpp's blocks with GPTQ's error feedback, embeddings and head as well.

    The mixture of types is that of llama.cpp's file with an importance matrix, so that both have the same bytes.
    """

    needs_data: ClassVar[bool] = True
    method: Literal["gptq"] = "gptq"
    damping: Damping = 0.01
    order: Order = "stage"
    propagate: Propagate = "compressed"
    target: Target = 0.0


class Gguf(OnGguf):
    """llama.cpp's own quantization: what `llama-quantize` makes of the model. Needs llama.cpp's library."""

    needs_data: ClassVar[bool] = True
    order: ClassVar[Literal["block"]] = "block"
    propagate: ClassVar[Literal["dense"]] = "dense"
    method: Literal["gguf"] = "gguf"
    type: PresetName = Field(description="a preset of llama.cpp, as `llama-quantize` names it")
    imatrix: Literal["calibration", "none"] = Field(
        "none",
        description="calibration: weigh errors by the mean squares of the calibration's activations, as `llama-imatrix` does",
    )

    @property
    @override
    def preset(self) -> Preset:
        return Preset(self.type)

    @override
    def name_parts(self) -> list[str]:
        return [self.type, *(["imatrix"] if self.imatrix == "calibration" else [])]


class Checkpoint(MethodSettings):
    """A compressed model that somebody published, measured like every variant; docs/checkpoints.md lists the formats."""

    named_fields: ClassVar[frozenset[str]] = frozenset({"method", "id", "of"})
    method: Literal["checkpoint"] = "checkpoint"
    id: str = Field(
        min_length=1, description="hub id, folder or GGUF file (relative to the spec) of the compressed model"
    )
    of: str = Field(min_length=1, description="id of the model whose dense trial it is compared with")
    revision: str = Field("main", min_length=1, description="branch, tag or commit")

    @override
    def name_parts(self) -> list[str]:
        return [re.sub(r"[^A-Za-z0-9._-]+", "_", short_name(self.id))]


StatisticName = Literal["norm", "mean_abs", "hessian"]
"""A statistic of a linear group's input over the calibration tokens; see ``studyctl.compress.walk.statistics``."""

WithData = Wanda | SparseGPT | GPTQ | AWQ | PruneThenQuantize | GPTQOnGguf | Gguf
"""Settings of the methods that use calibration activations: they have ``order`` and ``propagate``."""


def uses_data(settings: MethodSettings) -> TypeGuard[WithData]:
    """Return whether these settings need calibration activations."""
    return settings.needs_data and getattr(settings, "imatrix", "calibration") == "calibration"


@dataclass(frozen=True, slots=True)
class Method:
    """A row of :data:`METHODS`."""

    settings: type[MethodSettings]
    target: str | None
    """``module:function`` of the implementation, called as ``function(LinearGroup, settings)`` for every linear group. It
    returns one ``CompressedLinear`` per linear of the group. None: nothing to call."""
    statistics: frozenset[StatisticName] = frozenset()
    """Statistics that the walker measures of the input of every linear group."""
    prepare: str | None = None
    """``module:function`` that is called as ``function(BlockInput, settings)`` before the linears of a block are compressed,
    and returns a ``PreparedBlock``: for methods that move scales between linear groups."""
    version: int = 1
    """Rises when the same settings give other weights, so that trials run again."""


PAIR = "prune+quantize"
"""The row of ``method = [<one that prunes>, <one that quantizes>]``."""
ON_GGUF = " on gguf"
"""Ends the rows of methods with a ``grid``."""

METHODS: dict[str, Method] = {
    "dense": Method(Dense, None),
    "magnitude": Method(Magnitude, "studyctl.compress.prune.magnitude:compress_linears", version=2),
    "wanda": Method(Wanda, "studyctl.compress.prune.wanda:compress_linears", frozenset({"norm"})),
    "rtn": Method(RTN, "studyctl.compress.quantize.rtn:compress_linears", version=2),
    "sparsegpt": Method(
        SparseGPT, "studyctl.compress.prune.sparsegpt:compress_linears", frozenset({"hessian"}), version=3
    ),
    "gptq": Method(
        GPTQ, "studyctl.compress.quantize.gptq:compress_linears", frozenset({"hessian"}), version=3
    ),
    "awq": Method(
        AWQ,
        "studyctl.compress.quantize.awq:compress_linears",
        frozenset({"mean_abs", "hessian"}),
        prepare="studyctl.compress.quantize.awq:scale_block",
        version=5,
    ),
    f"rtn{ON_GGUF}": Method(RTNOnGguf, "studyctl.compress.gguf.methods:round_to_nearest"),
    f"gptq{ON_GGUF}": Method(
        GPTQOnGguf, "studyctl.compress.gguf.methods:round_with_feedback", frozenset({"hessian"})
    ),
    "gguf": Method(Gguf, "studyctl.compress.gguf.methods:quantize_by_llama", frozenset({"norm"})),
    "checkpoint": Method(Checkpoint, None),
    PAIR: Method(
        PruneThenQuantize,
        "studyctl.compress.combined:compress_linears",
        prepare="studyctl.compress.combined:prepare_block",
        version=6,
    ),
}


ENTRY_POINTS = "studyctl.methods"
"""Group of entry points by which installed packages add methods: each names a :class:`Method`, and is called like it in a spec."""


def _installed() -> dict[str, Method]:
    """Return the methods of installed packages.

    Raises:
        StudyError: one cannot be imported, is no :class:`Method`, or is called like another.
    """
    methods: dict[str, Method] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist is not None else entry.value
        try:
            method = entry.load()
        except Exception as error:  # whatever that package does
            what = f"method `{entry.name}` of the package {package} cannot be imported: {error}"
            raise StudyError(what, hint=f"update {package}, or uninstall it") from error
        if not isinstance(method, Method):
            raise StudyError(
                f"`{entry.value}` of the package {package} is no studyctl.contract.methods.Method"
            )
        if entry.name in METHODS or entry.name in methods:
            raise StudyError(f"the package {package} has a method `{entry.name}`, and there is one already")
        methods[entry.name] = method
    return methods


METHODS |= _installed()


def tag_of(method: object, *, has_grid: bool) -> str:
    """Return the key of :data:`METHODS` for a table with this ``method``, if it is a valid one."""
    if isinstance(method, list | tuple):
        return PAIR
    return f"{method}{ON_GGUF}" if has_grid and f"{method}{ON_GGUF}" in METHODS else str(method)


def method_of(settings: MethodSettings) -> Method:
    """Return the row of :data:`METHODS` for these settings."""
    return METHODS[tag_of(settings.method, has_grid=hasattr(settings, "grid"))]


def methods_of(settings: MethodSettings) -> tuple[str, ...]:
    """Return the names of the methods that these settings combine; one, if they combine none."""
    return (settings.method,) if isinstance(settings.method, str) else tuple(settings.method)


def without_data(settings: WithData) -> MethodSettings:
    """Return the method that needs no data and costs the same bits: for linears that no calibration token reaches."""
    if isinstance(settings, PruneThenQuantize):
        return settings.model_copy(update={"method": ("magnitude", "rtn")})
    assert not isinstance(settings, OnGguf)  # no family of these has experts
    kind = RTN if isinstance(settings, Quantization) else Magnitude
    return kind.model_validate(settings.model_dump(include=kind.model_fields.keys() - {"method"}))


def settings_of(value: object) -> object:
    """Return dumped settings as the method's own type; anything else unchanged, for a validator to refuse."""
    if not isinstance(value, dict) or "method" not in value:
        return value
    row = METHODS.get(tag_of(value["method"], has_grid="grid" in value))
    return value if row is None else row.settings.model_validate(value)


def inverts_hessian(settings: MethodSettings) -> bool:
    """Return whether the method inverts Hessians, which takes more tokens than a linear has inputs."""
    methods = (settings.method,) if isinstance(settings.method, str) else settings.method
    return isinstance(settings, GPTQOnGguf) or any(
        issubclass(METHODS[method].settings, SparseGPT | GPTQ) for method in methods
    )


def too_few_tokens(tokens: int, inputs: int) -> str | None:
    """Return what is wrong with so few calibration tokens for a linear with so many inputs; None if they suffice."""
    if tokens >= 2 * inputs:
        return None
    return (
        f"{tokens:,} calibration tokens for linears with up to {inputs:,} inputs, fewer than twice as many: "
        "their Hessians are singular or nearly so, and damping decides much of the result"
    )


def statistics_of(settings: MethodSettings) -> frozenset[StatisticName]:
    """Return the statistics to measure of the input of every linear group."""
    if isinstance(settings, PruneThenQuantize):
        return frozenset().union(*(METHODS[name].statistics for name in settings.method))
    return method_of(settings).statistics

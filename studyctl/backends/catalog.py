"""The packages that can compress a variant in place of studyctl, and what each of them can do, as tests showed.

Each has a folder here with ``requirements.txt``, the exact versions of its environment, and ``adapter.py``, which runs only in
that environment. Needs no torch.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from studyctl.backends import OWN
from studyctl.contract.methods import MethodSettings
from studyctl.files import digest

ADAPTER_VERSION = 1
"""Raised when an adapter or the driver gives other weights with the same package."""
GPU_SIZE_BYTES = 5_400_000_000
"""Size of an environment with torch for a GPU: the four with CUDA take 5.24 to 5.34 GB."""
_HERE = Path(__file__).parent

DeviceKind = Literal["cpu", "cuda"]
ANY = None
"""Stands for all values of an option that a spec allows."""


class Refusal(NamedTuple):
    """Why a backend cannot make a variant."""

    option: str
    """The key of the ``[[compression]]`` table whose value is refused."""
    what: str
    hint: str


@dataclass(frozen=True)
class Ability:
    """One method of a backend."""

    takes: Mapping[str, tuple[Any, ...] | None]
    """Options that the package has, with the values that it accepts (:data:`ANY`: all)."""
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Options with only one value in the package: a spec that leaves one at its default gets this value."""
    devices: tuple[DeviceKind, ...] = ("cpu", "cuda")
    together: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Switches that need another switch to be on."""

    def allowed(self, option: str) -> tuple[Any, ...] | None:
        """Return the values that an option may have (:data:`ANY`: all); empty if the package has no such option."""
        return (self.fixed[option],) if option in self.fixed else self.takes.get(option, ())

    def can(self, option: str, value: Any) -> bool:
        """Return whether an option may have a value."""
        allowed = self.allowed(option)
        return allowed is ANY or value in allowed


@dataclass(frozen=True)
class Backend:
    """A package in an environment of its own."""

    name: str
    """Its name in a spec."""
    package: str
    """Its name in the package index."""
    folder: Path
    """The folder of its adapter and its exact versions."""
    abilities: Mapping[str, Ability]
    """By method."""
    size_bytes: int
    """Of the environment with torch for a CPU; with torch for a GPU it takes :data:`GPU_SIZE_BYTES`."""
    build_isolation: bool = True
    """False: its build needs packages that are installed in the environment."""
    build_environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def adapter(self) -> Path:
        """Return the script that runs in its environment."""
        return self.folder / "adapter.py"

    @property
    def requirements(self) -> Path:
        """Return the file of exact versions."""
        return self.folder / "requirements.txt"

    @cached_property
    def version(self) -> str:
        """Return the version of the package in its environment."""
        name = self.package.replace("-", "[-_]")
        versions: list[str] = re.findall(rf"(?mi)^{name}==(.+)$", self.requirements.read_text("utf-8"))
        return versions[0]

    @cached_property
    def pins_key(self) -> str:
        """Return the hash of the exact versions."""
        return digest(self.requirements.read_text("utf-8"))

    @property
    def devices(self) -> tuple[DeviceKind, ...]:
        """Return the kinds of device that any of its methods runs on."""
        kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
        return tuple(kind for kind in kinds if any(kind in row.devices for row in self.abilities.values()))


_GRID: dict[str, tuple[Any, ...] | None] = {"bits": (2, 3, 4, 8), "group_size": ANY, "symmetric": ANY}
_GPTQ = {**_GRID, "act_order": ANY, "static_groups": ANY, "damping": ANY}
_PRUNING: dict[str, tuple[Any, ...] | None] = {"sparsity": ANY, "pattern": ANY}

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "autoawq",
            "autoawq",
            _HERE / "autoawq",
            {
                "awq": Ability(
                    # Packs 4 bits only, and cannot pack a symmetric grid.
                    {"bits": (4,), "group_size": ANY, "symmetric": (False,), "weight_term": ANY, "clip": ANY},
                    {"objective": "block", "ratios": 20},
                )
            },
            size_bytes=2_540_000_000,
            build_isolation=False,
        ),
        Backend(
            "auto-gptq",
            "auto-gptq",
            _HERE / "auto_gptq",
            {"gptq": Ability(_GPTQ, {"block_size": 128, "order": "stage"}, ("cuda",))},
            size_bytes=1_600_000_000,
            build_isolation=False,
            build_environment={"BUILD_CUDA_EXT": "0"},
        ),
        Backend(
            "gptqmodel",
            "gptqmodel",
            _HERE / "gptqmodel",
            {
                "gptq": Ability(_GPTQ, {"block_size": 128, "order": "stage"}),
                "rtn": Ability(_GRID),
            },
            size_bytes=1_620_000_000,
            build_environment={"BUILD_CUDA_EXT": "0"},
        ),
        Backend(
            "llm-compressor",
            "llmcompressor",
            _HERE / "llm_compressor",
            {
                "gptq": Ability(
                    {**_GPTQ, "bits": (4, 8), "block_size": ANY},
                    {"order": "block"},
                    together={"act_order": "static_groups"},
                ),
                "rtn": Ability({**_GRID, "bits": (4, 8)}),
                "awq": Ability(
                    {**_GRID, "bits": (4, 8), "weight_term": ANY},
                    {"objective": "block", "ratios": 20, "clip": False},
                    ("cuda",),
                ),
                "sparsegpt": Ability({**_PRUNING, "block_size": ANY, "damping": ANY}, {"order": "block"}),
                "wanda": Ability(_PRUNING),
            },
            size_bytes=1_550_000_000,
        ),
    )
}


def effective(backend: str, settings: MethodSettings) -> MethodSettings:
    """Return the settings that a backend really uses: options at the spec's defaults get the package's fixed values."""
    ability = _ability(backend, settings)
    if ability is None:
        return settings
    fields = type(settings).model_fields
    fixed = ability.fixed.items()
    return settings.model_copy(
        update={
            name: value
            for name, value in fixed
            if name in fields and getattr(settings, name) == fields[name].default
        }
    )


def refusals(backend: str, settings: MethodSettings) -> list[Refusal]:
    """Return why a backend cannot make a variant with these (effective) settings; empty if it can.

    Args:
        backend: a key of :data:`BACKENDS`.
        settings: what :func:`effective` returned.
    """
    method = settings.method if isinstance(settings.method, str) else "+".join(settings.method)
    ability = _ability(backend, settings)
    having = [row for row in BACKENDS.values() if method in row.abilities]
    if ability is None:
        return [Refusal("backend", f"`{backend}` has no method `{method}`", _who_has(having))]
    reasons = []
    for name, info in type(settings).model_fields.items():
        value, allowed = getattr(settings, name), ability.allowed(name)
        if name == "method" or ability.can(name, value) or (not allowed and value == info.default):
            continue
        if allowed:
            choice = " or ".join(f"`{name} = {json.dumps(choice)}`" for choice in allowed)
            what = f"`{backend}` takes {choice} only"
        else:
            what = f"`{backend}` has no option `{name}` for {method}"
        others = [row for row in having if row.abilities[method].can(name, value)]
        reasons.append(Refusal(name, what, _who_has(others)))
    for name, other in ability.together.items():
        if getattr(settings, name) and not getattr(settings, other):
            what = f"`{backend}` has `{name}` with `{other} = true` only"
            others = [row for row in having if name not in row.abilities[method].together]
            reasons.append(Refusal(name, what, _who_has(others)))
    return reasons


def runs_on(backend: str, settings: MethodSettings, device: str) -> bool:
    """Return whether a backend can run the method on this kind of device; True if it has no such method at all."""
    ability = _ability(backend, settings)
    return ability is None or device.partition(":")[0] in ability.devices


def _ability(backend: str, settings: MethodSettings) -> Ability | None:
    row = BACKENDS.get(backend)
    return row.abilities.get(settings.method) if row and isinstance(settings.method, str) else None


def _who_has(others: Iterable[Backend]) -> str:
    names = [row.name for row in others]
    return f"{', '.join([OWN, *names])} can" if names else f"only {OWN} can"

"""From the ``[[compression]]`` tables to named variants."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from studyctl.backends import OWN
from studyctl.backends.catalog import effective
from studyctl.contract.methods import Checkpoint, Dense, MethodSettings, uses_data
from studyctl.errors import Problem
from studyctl.files import digest
from studyctl.spec.loading import Document
from studyctl.spec.models import Calibration, CalibrationOverride, CompressionTable, Spec
from studyctl.spec.positions import Loc


@dataclass(frozen=True, slots=True)
class Variant:
    """One compression setting, with the calibration that it uses."""

    name: str
    settings: MethodSettings
    calibration: Calibration | None
    """None if the method needs no calibration data."""
    backend: str
    models: tuple[str, ...]
    """Patterns of model ids."""
    loc: Loc
    """The table in the spec."""

    @property
    def method(self) -> str:
        """Return the method's name, ``a+b`` for a combination."""
        method = self.settings.method
        return method if isinstance(method, str) else "+".join(method)

    @property
    def is_walked(self) -> bool:
        """Return whether studyctl itself compresses the blocks; not dense, nor another package, nor a published checkpoint."""
        return self.backend == OWN and not isinstance(self.settings, Dense | Checkpoint)

    def applies_to(self, model_id: str) -> bool:
        """Return whether this model gets this variant."""
        if isinstance(self.settings, Checkpoint):
            return model_id == self.settings.of
        return self.models == ("*",) or any(fnmatchcase(model_id, pattern) for pattern in self.models)

    def place_of(self, document: Document, option: str, value: object) -> Loc:
        """Return the place in the spec of an option's value, also within a list; the table if it is a default."""
        table = document.spec.compression[int(self.loc[1])]
        if option not in table.model_fields_set:
            return self.loc
        values: tuple[object, ...] = getattr(table, option)
        return (*self.loc, option, values.index(value)) if value in values else (*self.loc, option)


DENSE = Variant("dense", Dense(), None, OWN, ("*",), ("models",))


def expand_variants(document: Document) -> tuple[list[Variant], list[Problem]]:
    """Return every variant of the spec, dense first, and a problem for each variant that is asked for twice."""
    variants, problems = [DENSE], []
    by_name: dict[str, Variant] = {DENSE.name: DENSE}
    models = [model.id for model in document.spec.models]
    for index, table in enumerate(document.spec.compression):
        for variant in _variants_of(document.spec, table, ("compression", index)):
            other, settings = by_name.get(variant.name), variant.settings
            if (
                other is not None
                and isinstance(settings, Checkpoint)
                and isinstance(other.settings, Checkpoint)
                and settings.id != other.settings.id
            ):  # two checkpoints whose ids end alike
                variant = replace(variant, name=f"{variant.name}-{digest(settings.id)[:6]}")
                other = by_name.get(variant.name)
            if other and any(other.applies_to(model) and variant.applies_to(model) for model in models):
                what = f"variant `{variant.name}` is asked for twice"
                problems.append(document.problem(what, variant.loc, hint="remove one of the two tables"))
                continue
            # A variant of other models may have the same name.
            by_name.setdefault(variant.name, variant)
            variants.append(variant)
    return variants, problems


def _variants_of(spec: Spec, table: CompressionTable, loc: Loc) -> Iterator[Variant]:
    calibrations = {override: override.applied_to(spec.calibration) for override in table.calibration}
    for settings, override, backend in table.expand():
        calibration = calibrations[override] if uses_data(settings) else None
        name = _variant_name(settings, override, backend, table.swept)
        yield Variant(name, effective(backend, settings), calibration, backend, table.models, loc)


def _variant_name(
    settings: MethodSettings, override: CalibrationOverride, backend: str, swept: frozenset[str]
) -> str:
    """Return a readable name: the method, its main values, and every value that is not a default or is swept."""
    method = settings.method if isinstance(settings.method, str) else "+".join(settings.method)
    parts = [method, *settings.name_parts()]
    for field, info in type(settings).model_fields.items():
        value = getattr(settings, field)
        if field in settings.named_fields or (value == info.default and field not in swept):
            continue
        if isinstance(value, bool):
            parts.append(field if value else f"no_{field}")
        else:
            parts.append(f"{field}:{value:g}" if isinstance(value, float) else f"{field}:{value}")
    overridden = override.model_dump(exclude_none=True)
    if overridden and uses_data(settings):
        parts.append("cal:" + "+".join(_override(key, value) for key, value in overridden.items()))
    return "-".join(parts) + (f"@{backend}" if backend != OWN else "")


def _override(key: str, value: object) -> str:
    if key == "languages" and isinstance(value, list | tuple):
        return "+".join(value)
    if key == "ids":
        return f"ids:{digest(value)[:6]}"
    return str(value) if key == "source" else f"{key}:{value}"

"""From the ``[[compression]]`` tables to named variants."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from studyctl.backends import OWN
from studyctl.backends.catalog import effective
from studyctl.contract.methods import Checkpoint, Dense, MethodSettings
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
    """None where the method looks at no data."""
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

    def applies_to(self, model_id: str) -> bool:
        """Return whether the table's filter lets this model in."""
        if isinstance(self.settings, Checkpoint):
            return model_id == self.settings.of
        return self.models == ("*",) or any(fnmatchcase(model_id, pattern) for pattern in self.models)


DENSE = Variant("dense", Dense(), None, OWN, ("*",), ("models",))


def expand_variants(document: Document) -> tuple[list[Variant], list[Problem]]:
    """Return every variant of the spec, dense first, and a problem for each setting that is asked for twice."""
    variants, problems = [DENSE], []
    seen: dict[str, Variant] = {DENSE.name: DENSE}
    for index, table in enumerate(document.spec.compression):
        for found in _variants_of(document.spec, table, ("compression", index)):
            variant = _told_apart(found, seen.get(found.name))
            other = seen.get(variant.name)
            if other is None:
                seen[variant.name] = variant
                variants.append(variant)
            elif _overlap(document.spec, other, variant):
                what = f"variant `{variant.name}` is asked for twice"
                problems.append(document.problem(what, variant.loc, hint="remove one of the two tables"))
            else:  # the same setting for other models: one variant under one name
                variants.append(variant)
    return variants, problems


def _told_apart(variant: Variant, other: Variant | None) -> Variant:
    """Return a checkpoint with a hash in its name if one of another owner is called the same."""
    ours, theirs = variant.settings, other.settings if other else None
    if not isinstance(ours, Checkpoint) or not isinstance(theirs, Checkpoint) or ours.id == theirs.id:
        return variant
    return replace(variant, name=f"{variant.name}-{digest(ours.id)[:6]}")


def _overlap(spec: Spec, one: Variant, other: Variant) -> bool:
    return any(one.applies_to(model.id) and other.applies_to(model.id) for model in spec.models)


def _variants_of(spec: Spec, table: CompressionTable, loc: Loc) -> list[Variant]:
    variants = []
    applied = {override: override.applied_to(spec.calibration) for override in table.calibration}
    for settings, override, backend in table.expand():
        calibration = applied[override] if settings.needs_data else None
        name = variant_name(settings, override, backend, table.swept)
        variants.append(Variant(name, effective(backend, settings), calibration, backend, table.models, loc))
    return variants


def variant_name(
    settings: MethodSettings, override: CalibrationOverride, backend: str, swept: frozenset[str]
) -> str:
    """Return a readable name: the method, its main values, and every value that is not a default or is swept."""
    method = settings.method if isinstance(settings.method, str) else "+".join(settings.method)
    parts = [method, *settings.name_parts()]
    for field, info in type(settings).model_fields.items():
        value = getattr(settings, field)
        if field in settings.named_fields:
            continue
        if value != info.default or field in swept:
            parts.append(_option(field, value))
    given = override.model_dump(exclude_none=True)
    if given and settings.needs_data:
        parts.append("cal:" + "+".join(_override(key, value) for key, value in given.items()))
    return "-".join(parts) + (f"@{backend}" if backend != OWN else "")


def _option(field: str, value: object) -> str:
    if isinstance(value, bool):
        return field if value else f"no_{field}"
    return f"{field}:{value:g}" if isinstance(value, float) else f"{field}:{value}"


def _override(key: str, value: object) -> str:
    if key == "languages" and isinstance(value, list | tuple):
        return "+".join(value)
    if key == "ids":
        return f"ids:{digest(value)[:6]}"
    return str(value) if key == "source" else f"{key}:{value}"

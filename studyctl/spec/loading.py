"""Loading a spec: all that is wrong with it at once, each problem at its place in the file.

The steps are: read the text (:mod:`~studyctl.spec.syntax`), merge what it extends (:mod:`~studyctl.spec.extends`), hold
it against the models (:mod:`~studyctl.spec.models`, worded by :mod:`~studyctl.spec.messages`), and check what its tables
say of each other (:mod:`~studyctl.spec.checks`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from studyctl.errors import Problem, ProblemCode, SpecError, did_you_mean
from studyctl.spec.checks import Draft, check
from studyctl.spec.extends import Layers, read_layers, read_text, with_base
from studyctl.spec.keys import METHOD_NAMES
from studyctl.spec.messages import Finding, findings
from studyctl.spec.models import (
    TABLES,
    Calibration,
    CompressionTable,
    Perplexity,
    Spec,
    Table,
    Tasks,
    TextSource,
    method_tag,
)
from studyctl.spec.positions import Loc, Place, Span, deepest

LISTED = ("models", "compression")
"""Tables that are written ``[[…]]``."""


@dataclass(frozen=True)
class Document:
    """A spec with the text that it was read from."""

    path: Path
    text: str
    spec: Spec
    base: Path
    """Folder that relative paths are resolved against."""
    layers: Layers = field(repr=False, compare=False)
    """The data as written and its places, with what the spec extends."""

    def problem(
        self,
        what: str,
        loc: Loc,
        *,
        key: bool = False,
        note: str = "",
        hint: str = "",
        severity: str = "error",
        code: ProblemCode = ProblemCode.OTHER,
    ) -> Problem:
        """Return a problem at the deepest part of ``loc`` that is in the file.

        Args:
            what: what is wrong.
            loc: way into the spec, such as ``("compression", 0, "group_size", 1)``.
            key: whether to point at the name instead of the value. A missing key is shown at its table.
            note: short text beside the underline.
            hint: what to do.
            severity: ``error`` or ``warning``.
            code: what kind of problem it is, where something is decided by that.
        """
        finding = Finding(what, loc, key=key, note=note, hint=hint)
        return replace(_problem(self.path, self.layers.places, finding, severity), code=code)

    def written(self, loc: Loc) -> bool:
        """Return whether the file says something at this place, so that it is not a default."""
        return deepest(self.layers.places, loc)[1] == loc


def load_spec(path: Path) -> Document:
    """Read and check a spec.

    Raises:
        SpecError: with every problem of the spec: unreadable, no TOML, unknown keys, bad values, names that lead nowhere.
    """
    return parse_spec(read_text(path), path)


def parse_spec(text: str, path: Path) -> Document:
    """Check the text of a spec that is, or will be, the file ``path``.

    Raises:
        SpecError: with every problem of the spec.
    """
    layers = read_layers(path, text)
    if not layers.data:
        hint = "a study has at least a `[study]` with a `name` and one `[[models]]` with an `id`"
        raise SpecError(Problem("the spec is empty", path, hint=hint))
    data, found = _with_lists(layers.data)
    spec: Spec | None = None
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        found += findings(error.errors(), data)
        found += _behind_bad_methods(data)
    found += check(_draft(spec) if spec else _salvaged(data))
    if found or spec is None:
        raise SpecError(_placed(path, layers, found))
    return Document(path, text, spec, layers.base, layers)


def self_contained(document: Document) -> str:
    """Return the TOML text that is stored with a run: comments and order kept, what it extends merged in.

    Its first line names the folder that relative paths start at, so that it loads the same spec from anywhere.
    """
    from studyctl.spec.standalone import merged_text  # tomlkit: reading and checking a spec go without

    return with_base(merged_text(document.layers), document.base)


def _placed(path: Path, layers: Layers, found: list[Finding]) -> list[Problem]:
    problems = dict.fromkeys(_problem(path, layers.places, finding) for finding in found)
    return sorted(
        problems, key=lambda problem: (problem.file != path, problem.line or 0, problem.column or 0)
    )


def _problem(path: Path, places: Place, finding: Finding, severity: str = "error") -> Problem:
    place, reached = deepest(places, finding.loc)
    names = [part for part in finding.loc if isinstance(part, str)]
    complete = [part for part in reached if isinstance(part, str)] == names
    span = (
        (place.key if finding.key and complete else None) or place.value or place.key or Span(path, 1, 1, 1)
    )
    return Problem(
        finding.what,
        span.file,
        span.line,
        span.column,
        span.length,
        note=finding.note,
        hint=finding.hint,
        severity=severity,
    )


def _with_lists(data: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Return the data with ``[models]`` taken for ``[[models]]``, so that what is in it is checked all the same."""
    single = [name for name in LISTED if isinstance(data.get(name), dict)]
    found = [Finding(f"`{name}` is a list of tables", (name,), note=f"write `[[{name}]]`") for name in single]
    return data | {name: [data[name]] for name in single}, found


def _behind_bad_methods(data: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the options of misspelt methods, each taken for the method that is meant."""
    tables = data.get("compression")
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        method = table.get("method") if isinstance(table, dict) else None
        if not isinstance(method, str) or method in TABLES:
            continue
        meant = next((name for name in METHOD_NAMES if did_you_mean(method, [name])), None)
        if meant is not None and did_you_mean(method, METHOD_NAMES):
            repaired = {"compression": [{}] * index + [table | {"method": meant}]}
            try:
                TABLES[meant].model_validate(repaired["compression"][index])
            except ValidationError as error:
                errors = error.errors()
                for item in errors:
                    item["loc"] = ("compression", index, *item["loc"])
                yield from findings(errors, repaired)


def _draft(spec: Spec) -> Draft:
    return Draft(
        model_ids=tuple(model.id for model in spec.models),
        calibration=spec.calibration,
        compression=dict(enumerate(spec.compression)),
        text=spec.text,
        text_names=tuple(spec.text),
        perplexity=spec.evaluation.perplexity,
        tasks=spec.evaluation.tasks,
    )


AnyTable = TypeVar("AnyTable", bound=Table)


def _read(table: type[AnyTable], value: object, *needed: str) -> AnyTable | None:
    """Return a table without the keys that are wrong (which has been found already).

    Returns None if one of them is required, or is ``needed`` so that a default would mislead.
    """
    try:
        return table.model_validate(value)
    except ValidationError as error:
        wrong = {found["loc"][0] for found in error.errors() if found["loc"]}
    if not isinstance(value, dict) or not wrong & set(value) or wrong & set(needed):
        return None
    return _read(table, {name: inner for name, inner in value.items() if name not in wrong})


def _salvaged(data: dict[str, Any]) -> Draft:
    """Return the tables of a wrong spec that are right in themselves."""

    def table(value: object, name: str) -> dict[str, Any]:
        inner = value.get(name) if isinstance(value, dict) else None
        return inner if isinstance(inner, dict) else {}

    def listed(name: str) -> list[Any]:
        value = data.get(name)
        return value if isinstance(value, list) else []

    ids = [value["id"] for value in listed("models") if isinstance(value, dict) and "id" in value]
    compression: dict[int, CompressionTable | None] = {
        index: _read(TABLES[method_tag(value)], value, "models", "calibration")
        for index, value in enumerate(listed("compression"))
        if method_tag(value) in TABLES
    }
    text = {
        name: _read(TextSource, value, *TextSource.model_fields)
        for name, value in table(data, "text").items()
    }
    evaluation = table(data, "evaluation")
    return Draft(
        model_ids=tuple(ids) if ids and all(isinstance(id_, str) for id_ in ids) else None,
        calibration=_read(Calibration, data.get("calibration", {}), "source", "languages", "ids"),
        compression=_present(compression),
        text=_present(text),
        text_names=tuple(text),
        perplexity=_read(Perplexity, evaluation.get("perplexity"), "source", "languages"),
        tasks=_read(Tasks, evaluation.get("tasks")),
    )


Number = TypeVar("Number", int, str)


def _present(tables: dict[Number, AnyTable | None]) -> dict[Number, AnyTable]:
    return {number: table for number, table in tables.items() if table is not None}

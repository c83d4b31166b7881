"""Loading a spec. All of its problems are reported at once, each at its place in the file.

First the text is read (:mod:`~studyctl.spec.syntax`) and merged with what it extends (:mod:`~studyctl.spec.extends`). Then it
is validated by the models (:mod:`~studyctl.spec.models`, with the messages of :mod:`~studyctl.spec.messages`), and names that
refer to other tables are checked (:mod:`~studyctl.spec.checks`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from studyctl.errors import Problem, ProblemCode, SpecError, closest
from studyctl.spec.checks import Draft, check
from studyctl.spec.extends import Layers, merged_text, read_layers, read_text, with_base
from studyctl.spec.keys import METHOD_NAMES, is_swapped, shown, value_at
from studyctl.spec.messages import Finding, findings
from studyctl.spec.models import (
    TABLES,
    Calibration,
    Perplexity,
    Spec,
    Table,
    Tasks,
    TextSource,
    method_tag,
)
from studyctl.spec.positions import Loc, Place, Setting, Span, deepest

LISTED = ("models", "compression", "hypotheses")
"""Tables that are written ``[[…]]``."""
MOST_PROBLEMS = 100
"""Problems that are shown; a list of thousands of wrong values has as many."""


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
            loc: path into the spec, such as ``("compression", 0, "group_size", 1)``.
            key: whether to point at the key instead of its value. A missing key is shown at its table.
            note: short text next to the underline.
            hint: what to do.
            severity: ``error`` or ``warning``.
            code: kind of the problem, for code that acts on it.
        """
        finding = Finding(what, loc, key=key, note=note, hint=hint)
        return span_of(self.path, self.layers.places, finding).problem(what, note, hint, severity, code)

    def written(self, loc: Loc) -> bool:
        """Return whether the file has a value at this place, rather than the default."""
        return deepest(self.layers.places, loc)[1] == loc


def load_spec(path: Path, changes: Sequence[str] = ()) -> Document:
    """Read and check a spec.

    Args:
        path: its file.
        changes: values to set in it first, such as ``evaluation.perplexity.windows=4`` (:func:`~studyctl.spec.changes.changed`).

    Raises:
        SpecError: with every problem of the spec: unreadable, not TOML, unknown keys, bad values, undefined names.
    """
    return parse_spec(read_text(path), path, changes)


def parse_spec(text: str, path: Path, changes: Sequence[str] = ()) -> Document:
    """Check the text of a spec that is, or will be, the file ``path``, with ``changes`` set in it.

    Raises:
        SpecError: with every problem of the spec.
    """
    layers = read_layers(path, text, changes)
    if not layers.data:
        hint = "a study has at least a `[study]` with a `name` and one `[[models]]` with an `id`"
        raise SpecError(Problem("the spec is empty", path, hint=hint))
    data, mistakes = _repaired(layers.data)
    spec: Spec | None = None
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        mistakes += findings(error.errors()[:MOST_PROBLEMS], data)
    mistakes += check(_draft(data))
    if mistakes or spec is None:
        placed = ((span_of(path, layers.places, item), item) for item in mistakes[:MOST_PROBLEMS])
        problems = dict.fromkeys(span.problem(item.what, item.note, item.hint) for span, item in placed)
        raise SpecError(
            sorted(problems, key=lambda item: (item.file != path, item.line or 0, item.column or 0))
        )
    return Document(path, layers.text, spec, layers.base, layers)


def self_contained(document: Document) -> str:
    """Return the TOML text that is stored with a run: comments and order are kept, what it extends is merged in.

    Its first line names the folder that relative paths start at, so that it loads the same spec from anywhere.
    """
    return with_base(merged_text(document.layers), document.base)


def span_of(path: Path, places: Place, finding: Finding) -> Span | Setting:
    """Return the part to underline: the key or value, or the table in which it is missing; or what set it instead."""
    place, reached = deepest(places, finding.loc)
    names, written = ([part for part in loc if isinstance(part, str)] for loc in (finding.loc, reached))
    key = place.key if finding.key and names == written else None
    return key or place.value or place.key or Span(path, 1, 1, 1)


def _repaired(data: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Return the data with mistakes corrected that would hide others, and these mistakes.

    ``[models]`` is taken for ``[[models]]``, a misspelt method for the closest one, and ``["gptq", "wanda"]`` for the pair in order.
    """
    single = [name for name in LISTED if isinstance(data.get(name), dict)]
    mistakes = [
        Finding(f"`{name}` is a list of tables", (name,), note=f"write `[[{name}]]`") for name in single
    ]
    data = data | {name: [data[name]] for name in single}
    if isinstance(tables := data.get("compression"), list):
        data["compression"] = tables = list(tables)
        for index, table in enumerate(tables):
            method = table.get("method") if isinstance(table, dict) else None
            loc = ("compression", index, "method")
            if is_swapped(method):
                tables[index] = table | {"method": method[::-1]}
                what = "of a pair, the method that prunes comes first"
                mistakes.append(Finding(what, loc, note=f"write {shown(method[::-1])}"))
            meant = closest(method, METHOD_NAMES) if isinstance(method, str) and method not in TABLES else ""
            if meant:
                tables[index] = table | {"method": meant}
                mistakes.append(Finding(f"unknown method `{method}`", loc, note=f"did you mean `{meant}`?"))
    return data, mistakes


AnyTable = TypeVar("AnyTable", bound=Table)


def _read(table: type[AnyTable], value: object, *needed: str) -> AnyTable | None:
    """Return a table without its invalid keys (which are reported already).

    Returns None if one of them is required, or is ``needed``: a default in its place would mislead.
    """
    try:
        return table.model_validate(value)
    except ValidationError as error:
        wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
    if not isinstance(value, dict) or not wrong & set(value) or wrong & set(needed):
        return None
    return _read(table, {name: inner for name, inner in value.items() if name not in wrong})


def _draft(data: dict[str, Any]) -> Draft:
    """Return the tables of a spec that are valid on their own."""
    models, tables, texts = data.get("models"), data.get("compression"), data.get("text")
    ids = [value_at(("id",), model) for model in models] if isinstance(models, list) else []
    names = [name for name in ids if name is not None]
    seeds = value_at(("study", "seeds"), data)
    texts = texts if isinstance(texts, dict) else {}
    return Draft(
        model_ids=tuple(names) if names and all(isinstance(name, str) for name in names) else None,
        seeds=len(seeds) if isinstance(seeds, list) else 1,
        calibration=_read(Calibration, data.get("calibration", {}), "source", "languages", "ids"),
        compression={
            index: table
            for index, value in enumerate(tables if isinstance(tables, list) else [])
            if method_tag(value) in TABLES
            and (table := _read(TABLES[method_tag(value)], value, "models", "calibration"))
        },
        text={
            name: text
            for name, value in texts.items()
            if (text := _read(TextSource, value, *TextSource.model_fields))
        },
        text_names=tuple(texts),
        perplexity=_read(Perplexity, value_at(("evaluation", "perplexity"), data), "source", "languages"),
        tasks=_read(Tasks, value_at(("evaluation", "tasks"), data)),
    )

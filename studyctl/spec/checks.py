"""What can be wrong with a spec although each of its tables is right: names that must exist elsewhere in it.

Every check takes a :class:`Draft`, which holds the tables that could be read, so that one bad table does not hide what is
wrong with the others. Only the spec is looked at; files, hubs and models are looked at when it is planned.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from studyctl.contract.identity import Purpose
from studyctl.errors import did_you_mean
from studyctl.spec.messages import Finding, listing
from studyctl.spec.models import (
    BUNDLED_LANGUAGES,
    BUNDLED_TEXTS,
    Calibration,
    CompressionTable,
    Perplexity,
    Tasks,
    TextSource,
)
from studyctl.spec.positions import Loc


@dataclass(frozen=True, slots=True)
class Draft:
    """The tables of a spec that are right in themselves, each under its number or name in the file."""

    model_ids: tuple[str, ...] | None = None
    """Ids of all models; None if they cannot be told."""
    calibration: Calibration | None = None
    compression: Mapping[int, CompressionTable] = field(default_factory=dict)
    text: Mapping[str, TextSource] = field(default_factory=dict)
    text_names: tuple[str, ...] = ()
    """Names of all text sources, also of those that are not right in themselves."""
    perplexity: Perplexity | None = None
    tasks: Tasks | None = None


def check(draft: Draft) -> Iterator[Finding]:
    """Yield everything that is wrong between the tables of a spec."""
    yield from _check_calibration(draft)
    if draft.perplexity is not None:
        uses = _Use("perplexity", draft.perplexity.source, draft.perplexity.languages)
        place = ("evaluation", "perplexity")
        yield from _check_text(draft, uses, (*place, "source"), (*place, "languages"))
    for index, table in draft.compression.items():
        yield from _check_models(draft, table, ("compression", index))
    for name, source in draft.text.items():
        yield from _check_files(source, ("text", name))
    if draft.tasks is not None:
        yield from _check_tasks(draft.tasks)


@dataclass(frozen=True, slots=True)
class _Use:
    """What a text is wanted for."""

    purpose: Purpose
    source: str
    languages: tuple[str, ...]


def _check_calibration(draft: Draft) -> Iterator[Finding]:
    base = draft.calibration
    if base is None:
        return
    yield from _check_placeholders(base.ids, "model", ("calibration", "ids"))
    if base.ids is None and "source" in base.model_fields_set:
        yield from _check_source(draft, base.source, ("calibration", "source"))
    for index, table in draft.compression.items():
        place: Loc = ("compression", index)
        if table.settings_type.needs_data:
            yield from _check_overrides(draft, base, table, place)
        elif "calibration" in table.model_fields_set:
            what = f"{_method(table)} needs no calibration data"
            yield Finding(what, (*place, "calibration"), key=True, hint="remove `calibration`")


def _check_overrides(
    draft: Draft, base: Calibration, table: CompressionTable, place: Loc
) -> Iterator[Finding]:
    """Check what a method is calibrated with: ``[calibration]`` with the overrides of its table."""
    # A default that leads nowhere is shown where calibration is spoken of, or else at the method that needs it.
    default: Loc = ("calibration",) if base.model_fields_set else place
    for number, override in enumerate(table.calibration):
        given, here = override.model_fields_set, (*place, "calibration", number)
        effective = override.applied_to(base)
        yield from _check_placeholders(override.ids, "model", (*here, "ids"))
        if effective.ids is not None:
            for name in sorted(given & {"source", "languages"}):
                what = f"`{name}` has no effect beside `ids`, which gives exact tokens"
                yield Finding(what, (*here, name), key=True, hint=f"remove `{name}` here or `ids`")
            continue
        places = [
            (*here, name)
            if name in given
            else ("calibration", name)
            if name in base.model_fields_set
            else default
            for name in ("source", "languages")
        ]
        yield from _check_text(draft, _Use("calibration", effective.source, effective.languages), *places)


def _method(table: CompressionTable) -> str:
    return f"`{table.method}`" if isinstance(table.method, str) else listing(table.method)


def _check_source(draft: Draft, name: str, place: Loc) -> Iterator[Finding]:
    known = (*draft.text_names, *BUNDLED_TEXTS)
    if name not in known:
        note = did_you_mean(name, known)
        hint = "" if note else f"add a table `[text.{name}]`, or use {listing(known)}"
        yield Finding(f"there is no text source `{name}`", place, note=note, hint=hint)


def _check_text(draft: Draft, use: _Use, source_place: Loc, languages_place: Loc) -> Iterator[Finding]:
    """Check that a text source is there and has these languages for this purpose."""
    yield from _check_source(draft, use.source, source_place)
    if use.source in BUNDLED_TEXTS and use.source not in draft.text_names:
        yield from _check_languages(use, BUNDLED_LANGUAGES, languages_place)
    source = draft.text.get(use.source)
    if source is None:  # bundled, or with problems of its own
        return
    yield from _check_purpose(source, use, source_place)
    if isinstance(source.config, dict):
        yield from _check_languages(use, tuple(source.config), languages_place)
    elif len(use.languages) > 1 and not _has_languages(source, use.purpose):
        what = f"text source `{use.source}` has one text, not one for each of {len(use.languages)} languages"
        hint = (
            "give `config` as a table with one for each language"
            if source.dataset
            else "put {language} into the path in `files`"
        )
        yield Finding(what, languages_place, hint=hint)


def _has_languages(source: TextSource, purpose: Purpose) -> bool:
    files = source.files.get(purpose, "") if isinstance(source.files, dict) else source.files
    return "{language}" in (files or "")


def _check_languages(use: _Use, known: tuple[str, ...], place: Loc) -> Iterator[Finding]:
    for index, language in enumerate(use.languages):
        if language not in known:
            note = did_you_mean(language, known)
            hint = f"its languages are {listing(known)}"
            yield Finding(
                f"text source `{use.source}` has no language `{language}`",
                (*place, index),
                note=note,
                hint=hint,
            )


def _check_purpose(source: TextSource, use: _Use, place: Loc) -> Iterator[Finding]:
    key, given = ("files", source.files) if source.files is not None else ("split", source.split)
    if isinstance(given, dict) and use.purpose not in given:
        what = f"text source `{use.source}` has no text for {use.purpose}"
        yield Finding(what, place, hint=f"add `{use.purpose}` to `{key}` of `[text.{use.source}]`")


def _check_models(draft: Draft, table: CompressionTable, place: Loc) -> Iterator[Finding]:
    ids = draft.model_ids
    if ids is None:
        return
    for index, pattern in enumerate(table.models):
        if not any(fnmatchcase(model, pattern) for model in ids):
            note = did_you_mean(pattern, ids)
            hint = "" if note else f"the models are {listing(ids)}"
            yield Finding(f"no model matches `{pattern}`", (*place, "models", index), note=note, hint=hint)


def _check_files(source: TextSource, place: Loc) -> Iterator[Finding]:
    files = source.files.items() if isinstance(source.files, dict) else [(None, source.files)]
    for purpose, path in files:
        where: Loc = (*place, "files") if purpose is None else (*place, "files", purpose)
        yield from _check_placeholders(path, "language", where)


def _check_placeholders(path: str | None, known: str, place: Loc) -> Iterator[Finding]:
    for name in re.findall(r"{(.*?)}", path or ""):
        if name != known:
            note = f"did you mean `{{{known}}}`?"
            yield Finding(f"nothing is filled in for `{{{name}}}`", place, note=note)


def _check_listed(tasks: Tasks, table: str, names: Iterable[str]) -> Iterator[Finding]:
    """Find tasks of a table that are not measured."""
    for name in names:
        if name not in tasks.names:
            note = did_you_mean(name, tasks.names)
            hint = "" if note else "add it to `names`, or remove it here"
            place: Loc = ("evaluation", "tasks", table, name)
            yield Finding(f"`names` does not list the task `{name}`", place, key=True, note=note, hint=hint)


def _check_tasks(tasks: Tasks) -> Iterator[Finding]:
    yield from _check_listed(tasks, "main", tasks.main)
    yield from _check_listed(tasks, "data", tasks.data)
    place: Loc = ("evaluation", "tasks", "data")
    for name, data in tasks.data.items():
        if name not in tasks.names:
            continue
        if tasks.shots and (isinstance(data, str) or data.fewshot is None):
            what = f"shots = {tasks.shots} needs examples for `{name}`"
            hint = f'{name} = {{ test = "…", fewshot = "…" }}'
            yield Finding(what, (*place, name), hint=hint)

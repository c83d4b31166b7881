"""Checks across the tables of a spec: the names that one refers to must exist in another.

Every check takes a :class:`Draft`, which holds the tables that could be read, so that one bad table does not hide what is
wrong with the others. Only the spec is read here; files, hubs and models are looked up when it is planned.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from studyctl.contract.identity import Purpose
from studyctl.contract.methods import Checkpoint
from studyctl.errors import did_you_mean
from studyctl.spec.messages import Finding, listing
from studyctl.spec.models import (
    BUNDLED_LANGUAGES,
    BUNDLED_TEXTS,
    LANGUAGE_NAMES,
    MOST_TRIALS,
    Calibration,
    CompressionTable,
    Perplexity,
    Tasks,
    TextSource,
)
from studyctl.spec.positions import Loc


@dataclass(frozen=True, slots=True)
class Draft:
    """The tables of a spec that are valid on their own, each under its index or name in the file."""

    model_ids: tuple[str, ...] | None = None
    """Ids of all models; None if one of them cannot be read."""
    seeds: int = 1
    """How many there are."""
    calibration: Calibration | None = None
    compression: Mapping[int, CompressionTable] = field(default_factory=dict)
    text: Mapping[str, TextSource] = field(default_factory=dict)
    text_names: tuple[str, ...] = ()
    """Names of all text sources, including the invalid ones."""
    perplexity: Perplexity | None = None
    tasks: Tasks | None = None


def check(draft: Draft) -> Iterator[Finding]:
    """Yield everything that is inconsistent between the tables of a spec."""
    yield from _check_count(draft)
    yield from _check_calibration(draft)
    if draft.perplexity is not None:
        place: Loc = ("evaluation", "perplexity")
        if "source" in draft.perplexity.model_fields_set or draft.perplexity.source in _sources(draft):
            yield from _check_text(draft, draft.perplexity, (*place, "source"), (*place, "languages"))
        else:
            what = "perplexity is measured on a text: `[evaluation.perplexity]` with `source` is missing"
            yield Finding(what, place, hint=_texts(draft))
    for index, table in draft.compression.items():
        yield from _check_models(draft, table, ("compression", index))
    for name, source in draft.text.items():
        place = ("text", name, "files")
        for loc, path in _paths(source):
            yield from _check_placeholders(path, "language", (*place, *loc))
    if draft.tasks is not None:
        yield from _check_tasks(draft.tasks)


def _check_count(draft: Draft) -> Iterator[Finding]:
    """Check that the tables, models and seeds together do not ask for more trials than a study may have."""
    ids, base = draft.model_ids or (), draft.calibration or Calibration()
    covered: dict[tuple[str, ...], int] = {}
    trials: dict[int, int] = {}
    for index, table in draft.compression.items():
        if table.models not in covered:
            covered[table.models] = sum(map(table.covers, ids))
        times = len(table.calibration)
        if table.uses_data:  # the windows of a calibration without ids are drawn by seed
            drawn = [override.applied_to(base).ids is None for override in table.calibration]
            times = sum(draft.seeds if draws else 1 for draws in drawn)
        if table.settings_type.draws:
            times = len(table.calibration) * draft.seeds
        of_model = table.variants // len(table.calibration) * times
        trials[index] = of_model * (1 if table.settings_type is Checkpoint else covered[table.models])
    total = len(ids) + sum(trials.values())
    if total > MOST_TRIALS:
        what = f"this study asks for {total:,} trials, {max(trials.values()):,} of them here; it may have {MOST_TRIALS:,}"
        hint = "shorten the lists, leave models or seeds out, or make several studies"
        yield Finding(what, ("compression", max(trials, key=trials.__getitem__)), hint=hint)


def _check_calibration(draft: Draft) -> Iterator[Finding]:
    base = draft.calibration
    if base is None:
        return
    yield from _check_placeholders(base.ids, "model", ("calibration", "ids"))
    if base.ids is None and "source" in base.model_fields_set:
        yield from _check_source(draft, base.source, ("calibration", "source"))
    is_missing = "source" not in base.model_fields_set and base.source not in _sources(draft)
    unnamed = [
        index
        for index, table in draft.compression.items()
        if table.uses_data
        and any(item.source is None and item.applied_to(base).ids is None for item in table.calibration)
    ]
    if is_missing and unnamed:
        place: Loc = ("calibration",) if base.model_fields_set else ("compression", unnamed[0])
        what = "methods that calibrate need a text: `[calibration]` with `source` is missing"
        yield Finding(what, place, hint=_texts(draft))
    for index, table in draft.compression.items():
        place = ("compression", index)
        if table.uses_data:
            yield from _check_overrides(draft, base, table, place, is_missing=is_missing)
        elif "calibration" in table.model_fields_set:
            method = f"`{table.method}`" if isinstance(table.method, str) else listing(table.method)
            what = f"{method} needs no calibration data"
            hint = "remove `calibration`"
            if table.settings_type.needs_data:
                hint += ', or write `imatrix = "calibration"`'
            yield Finding(what, (*place, "calibration"), key=True, hint=hint)


def _check_overrides(
    draft: Draft, base: Calibration, table: CompressionTable, place: Loc, *, is_missing: bool
) -> Iterator[Finding]:
    """Check a table's calibration: ``[calibration]`` with the table's overrides. That its source is missing was said."""
    # A problem with a default value is shown at `[calibration]` if the file has it, or else at the method.
    default: Loc = ("calibration",) if base.model_fields_set else place
    for number, override in enumerate(table.calibration):
        keys, here = override.model_fields_set, (*place, "calibration", number)
        effective = override.applied_to(base)
        yield from _check_placeholders(override.ids, "model", (*here, "ids"))
        if effective.ids is not None:
            for name in sorted(keys & {"source", "languages"}):
                what = f"`{name}` has no effect together with `ids`, which gives exact tokens"
                yield Finding(what, (*here, name), key=True, hint=f"remove `{name}` here or `ids`")
            continue
        if is_missing and "source" not in keys:
            continue
        places = [
            (*here, name)
            if name in keys
            else ("calibration", name)
            if name in base.model_fields_set
            else default
            for name in ("source", "languages")
        ]
        yield from _check_text(draft, effective, *places)


def _sources(draft: Draft) -> tuple[str, ...]:
    return (*draft.text_names, *BUNDLED_TEXTS)


def _texts(draft: Draft) -> str:
    """Return what a source may be, for a person who named none."""
    default = Calibration.model_fields["source"].default
    names = listing(_sources(draft))
    return f"write {names} or the name of a new `[text]` table; the default, `{default}`, needs a table `[text.{default}]`"


def _check_source(draft: Draft, name: str, place: Loc) -> Iterator[Finding]:
    names = _sources(draft)
    if name not in names:
        note = did_you_mean(name, names)
        hint = "" if note else f"add a table `[text.{name}]`, or use {listing(names)}"
        yield Finding(f"there is no text source `{name}`", place, note=note, hint=hint)


def _check_text(
    draft: Draft, use: Calibration | Perplexity, source_place: Loc, languages_place: Loc
) -> Iterator[Finding]:
    """Check that a text source exists and has these languages for this purpose."""
    yield from _check_source(draft, use.source, source_place)
    if use.source in BUNDLED_TEXTS and use.source not in draft.text_names:
        yield from _check_languages(use, BUNDLED_LANGUAGES, languages_place)
    source = draft.text.get(use.source)
    if source is None:  # bundled or invalid
        return
    purpose: Purpose = "calibration" if isinstance(use, Calibration) else "perplexity"
    key, texts = ("files", source.files) if source.files is not None else ("split", source.split)
    if isinstance(texts, dict) and purpose not in texts:
        what = f"text source `{use.source}` has no text for {purpose}"
        yield Finding(what, source_place, hint=f"add `{purpose}` to `{key}` of `[text.{use.source}]`")
    path = source.files.get(purpose, "") if isinstance(source.files, dict) else source.files
    by_language = path if isinstance(path, dict) else source.config
    if isinstance(by_language, dict):
        yield from _check_languages(use, tuple(by_language), languages_place)
    elif len(use.languages) > 1 and "{" not in (path or ""):  # a wrong placeholder is a problem of its own
        what = f"text source `{use.source}` has one text, not one for each of {len(use.languages)} languages"
        hint = (
            "give `config` as a table with one for each language"
            if source.dataset
            else f'put {{language}} into the path in `files`, or write a table: {purpose} = {{ {use.languages[0]} = "…" }}'
        )
        yield Finding(what, languages_place, hint=hint)


def _paths(source: TextSource) -> Iterator[tuple[Loc, str]]:
    """Yield every path in ``files`` with its place there."""
    if isinstance(source.files, str):
        yield (), source.files
    for purpose, path in source.files.items() if isinstance(source.files, dict) else ():
        if isinstance(path, str):
            yield (purpose,), path
        else:
            for language, entry in path.items():
                place = (purpose, language)
                yield (place, entry) if isinstance(entry, str) else ((*place, "file"), entry.file)


def _check_languages(
    use: Calibration | Perplexity, available: tuple[str, ...], place: Loc
) -> Iterator[Finding]:
    for index, language in enumerate(use.languages):
        if language not in available:
            what = f"text source `{use.source}` has no language `{language}`"
            code = LANGUAGE_NAMES.get(language.lower(), "")
            note = f"write `{code}`" if code in available else did_you_mean(language, available)
            hint = "" if note else f"its languages are {listing(available)}"
            yield Finding(what, (*place, index), note=note, hint=hint)


def _check_models(draft: Draft, table: CompressionTable, place: Loc) -> Iterator[Finding]:
    ids = draft.model_ids
    if ids is None:
        return
    for index, pattern in enumerate(table.models):
        if not any(fnmatchcase(model, pattern) for model in ids):
            note = did_you_mean(pattern, ids)
            hint = "" if note else f"the models are {listing(ids)}"
            yield Finding(f"no model matches `{pattern}`", (*place, "models", index), note=note, hint=hint)


def _check_placeholders(path: str | None, name: str, place: Loc) -> Iterator[Finding]:
    """Check that a path has no placeholder other than this one."""
    for other in set(re.findall(r"{(.*?)}", path or "")) - {name}:
        note = f"did you mean `{{{name}}}`?"
        yield Finding(f"unknown placeholder `{{{other}}}`", place, note=note)


def _check_tasks(tasks: Tasks) -> Iterator[Finding]:
    for key, table in (("main", tasks.main), ("data", tasks.data)):
        for name in table:
            place: Loc = ("evaluation", "tasks", key, name)
            if key == "data" and name in tasks.own:
                what, hint = (
                    f"`{name}` is a task of your own",
                    f"its items are `file` of `[evaluation.tasks.own.{name}]`",
                )
                yield Finding(what, place, key=True, hint=hint)
            elif name not in tasks.all_names:
                note = did_you_mean(name, tasks.names if key == "data" else tasks.all_names)
                hint = "" if note else "add it to `names`, or remove it here"
                yield Finding(
                    f"`names` does not list the task `{name}`", place, key=True, note=note, hint=hint
                )
    for name, data in tasks.data.items():
        if name in tasks.names and tasks.shots and (isinstance(data, str) or data.fewshot is None):
            what = f"shots = {tasks.shots} needs examples for `{name}`"
            hint = f'{name} = {{ test = "…", fewshot = "…" }}'
            yield Finding(what, ("evaluation", "tasks", "data", name), hint=hint)

"""The content of a study's report."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from shlex import quote

from studyctl.errors import StudyError
from studyctl.report.document import comparison
from studyctl.report.document.deployment import deployment
from studyctl.report.document.hypotheses import findings
from studyctl.report.document.model import Block, Cell, Column, Document, Section, Table
from studyctl.report.document.papers import methods
from studyctl.report.document.selection import Shown, bounded, is_measured, select
from studyctl.report.layout import MISSING
from studyctl.report.show import STATES
from studyctl.store.results import About, Environment, FlippedItem, Results, Setting, Standing
from studyctl.units import count_text

HIDDEN_OPTIONS = frozenset({"method"})
"""Options that the name of the method says already."""
FLIPPED_ITEMS = 200
"""Rows of flips that ``--items`` prints at most."""
PROMPT = 600
"""Characters of a prompt or an answer that are printed at most: its end, which asks."""


def document(results: Results, *, with_items: bool = False) -> Document:
    """Return the content of the report on the published results.

    Args:
        results: the results.
        with_items: whether to list items that flipped; published texts of tests leak into training sets.

    Raises:
        StudyError: nothing is measured yet.
    """
    about, standings = results.about(), results.leaderboard()
    if not any(map(is_measured, standings)):
        raise StudyError(
            f"nothing of {about.study} is measured yet",
            hint=f"`studyctl watch {quote(about.study)}` shows how far it is",
        )
    shown = select(results, standings)
    settings = results.settings()
    sections = [
        findings(results, shown, standings),
        comparison.size_and_quality(shown),
        comparison.languages(shown),
        *comparison.tasks(shown),
        deployment(results, shown),
        *([_items(shown, results.flipped_items(FLIPPED_ITEMS))] if with_items else []),
        _settings(results, shown, settings),
        _versions(settings, results.environments()),
        _failures(results),
        _warnings(results),
        *methods(shown, [row.method for row in settings], with_hypotheses=bool(results.hypotheses())),
    ]
    return Document(
        title=about.title or about.study,
        about=_about(about, standings, shown),
        sections=tuple(section for section in sections if section is not None),
    )


def _about(about: About, standings: Sequence[Standing], shown: Shown) -> tuple[str, ...]:
    counts = Counter(row.state for row in standings)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    trials = count_text(len(standings), "trial")
    published = f"{about.published_at:%Y-%m-%d %H:%M} UTC"
    spec = f", spec {about.spec_hash}" if about.spec_hash else ""
    return (
        f"Study {about.study} · {trials}: {states} · results of {published}{spec} · studyctl {about.studyctl}",
        *shown.left_out,
    )


def _settings(results: Results, shown: Shown, settings: list[Setting]) -> Section:
    blocks: list[Block] = []
    models, hidden = bounded(list(shown.models), "models")
    blocks.append(
        _text_table("Models", ("name", "id"), [(shown.names[model], model) for model in models], hidden)
    )
    if settings:
        rows, hidden = bounded(settings, "settings")
        cells = [
            (
                row.variant,
                row.method,
                row.backend or MISSING,
                _options(row.options),
                _options(row.calibration),
            )
            for row in rows
        ]
        titles = ("variant", "method", "by", "options", "calibration")
        blocks.append(_text_table("Variants", titles, cells, hidden))
    if texts := results.text_protocols():
        listed, hidden = bounded(texts, "languages")
        lines = [
            (text.language, _count(text.windows), _count(text.sequence_length), _yes_no(text.bos))
            for text in listed
        ]
        blocks.append(
            _text_table(
                "Texts", ("language", "windows", "tokens of a window", "BOS in each window"), lines, hidden
            )
        )
    if tasks := results.task_protocols():
        listed_tasks, hidden = bounded(tasks, "tasks")
        of_tasks = [
            (task.task, task.language or MISSING, task.metric, _count(task.shots), _count(task.items))
            for task in listed_tasks
        ]
        titles = ("task", "language", "main metric", "shots", "items")
        blocks.append(_text_table("Tasks", titles, of_tasks, hidden))
    return Section("Settings", tuple(blocks))


def _versions(settings: list[Setting], environments: list[Environment]) -> Section:
    versions: dict[str, dict[str, None]] = {}
    for row in environments:
        for package, version in (("studyctl", row.studyctl), *_json(row.versions).items()):
            if version is not None:
                versions.setdefault(package, {})[str(version)] = None
    for setting in settings:
        if setting.backend and setting.backend_version and setting.backend != "studyctl":
            versions.setdefault(setting.backend, {})[setting.backend_version] = None
    lines, hidden = bounded([(name, ", ".join(each)) for name, each in versions.items()], "packages")
    devices = dict.fromkeys(
        (row.device or MISSING, row.device_kind or MISSING, row.dtype or MISSING) for row in environments
    )
    listed, hidden_devices = bounded(list(devices), "devices")
    return Section(
        "Versions",
        (
            _text_table("Packages that measured", ("package", "version"), lines, hidden),
            _text_table("Devices", ("device", "kind", "dtype of weights"), listed, hidden_devices),
        ),
    )


def _failures(results: Results) -> Section | None:
    failures = results.failures()
    if not failures:
        return None
    rows, hidden = bounded(failures, "failures")
    lines = [
        (
            row.trial_id,
            row.stage or MISSING,
            (row.cause or "error").replace("_", " "),
            row.error or MISSING,
            row.hint or MISSING,
        )
        for row in rows
    ]
    return Section(
        "Failures",
        (_text_table("Failed trials", ("trial", "step", "cause", "error", "what to do"), lines, hidden),),
    )


def _warnings(results: Results) -> Section | None:
    messages: dict[str, list[str]] = {}
    for warning in results.warnings():
        place = f"{warning.trial_id}, {warning.stage}" if warning.stage else warning.trial_id
        messages.setdefault(warning.message, []).append(place)
    if not messages:
        return None
    rows, hidden = bounded(list(messages.items()), "kinds of warning")
    lines = [(places[0], message, str(len(places))) for message, places in rows]
    return Section("Warnings", (_text_table("Warnings", ("first in", "warning", "times"), lines, hidden),))


def _items(shown: Shown, flips: list[FlippedItem]) -> Section:
    """Return the items that flipped, and their texts where the study keeps them."""
    names = {trial: name for model in shown.models for trial, name in shown.variants(model).items()}
    lines = [
        (
            f"{row.task} {row.item}",
            names.get(row.trial_id, row.trial_id),
            row.direction.replace("_", " "),
            _answer(row.gold, row.right_answer),
            _answer(row.dense_predicted, row.dense_answer),
            _answer(row.predicted, row.answer),
        )
        for row in flips
    ]
    titles = ("item", "variant", "flip", "right answer", "dense's", "variant's")
    remark = "Choices are numbered from 0."
    notes = (remark, f"The first {FLIPPED_ITEMS}.") if len(flips) == FLIPPED_ITEMS else (remark,)
    texts = {
        f"{row.task} {row.item}": (_end(row.prompt), " | ".join(row.choices or ()) or MISSING)
        for row in flips
        if row.prompt is not None
    }
    blocks: list[Block] = [_text_table("Flips", titles, lines, notes)]
    if texts:
        rows = [(item, *parts) for item, parts in texts.items()]
        notes = (f"Of a prompt, the last {PROMPT} characters.",)
        blocks.append(_text_table("Their texts", ("item", "prompt", "choices"), rows, notes))
    return Section("Items that flipped", tuple(blocks))


def _answer(number: int | None, text: str | None) -> str:
    """Return a choice by its number and its text; a generated answer has no number."""
    parts = ([] if number is None else [str(number)]) + ([] if text is None else [_end(text.strip())])
    return ": ".join(parts) or MISSING


def _end(text: str) -> str:
    return text if len(text) <= PROMPT else f"…{text[-PROMPT:]}"


def _text_table(
    caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]], notes: tuple[str, ...] = ()
) -> Table:
    columns = tuple(Column(title, figures=False) for title in titles)
    return Table(caption, columns, tuple(tuple(map(Cell, row)) for row in rows), notes)


def _options(text: str | None) -> str:
    """Return a JSON object in words: ``bits 4, group_size 64``; options that are not set are left out."""
    parts = [
        f"{name} {_value(value)}"
        for name, value in _json(text).items()
        if value is not None and name not in HIDDEN_OPTIONS
    ]
    return ", ".join(parts) or MISSING


def _value(value: object) -> str:
    match value:
        case bool():
            return _yes_no(value)
        case list():
            return " ".join(map(str, value))
        case dict():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def _json(text: str | None) -> dict[str, object]:
    """Return the fields of a JSON object; none of anything else, which no run writes."""
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def _yes_no(value: bool | None) -> str:
    return MISSING if value is None else "yes" if value else "no"


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)

"""What of a study is in its report: a page has room for a thousand trials, and a chart for a dozen panels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from studyctl.printable import on_one_line
from studyctl.store.results import LanguageResult, Results, Standing, TaskResult

TRIALS = 1000
"""Trials at most."""
OF_MODEL = 100
"""Trials of a model at most: the best."""
MODELS = 100
COLUMNS = 40
"""Languages or tasks at most."""
PANELS = 12
"""Charts beside each other at most."""
ROWS = 200
"""Rows at most of a table that is not about trials."""

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Shown:
    """The trials of a report, and their results."""

    study: str
    models: dict[str, list[Standing]]
    """The measured trials that are shown, by model, in the order of the plan."""
    languages: list[LanguageResult]
    tasks: list[TaskResult]
    """By main metrics."""
    fronts: dict[str, set[str]]
    """Trials on the Pareto front, by measure."""
    names: dict[str, str]
    """A short name of each model, by its id."""
    left_out: tuple[str, ...]
    """What is not shown, in sentences."""

    @property
    def trials(self) -> dict[str, Standing]:
        """Return the shown trials by their ids."""
        return {row.trial_id: row for rows in self.models.values() for row in rows}

    def variants(self, model: str) -> dict[str, str]:
        """Return the name of each shown trial of a model: its variant, with the seed if there are several, and its state."""
        rows = self.models[model]
        times = Counter(row.variant for row in rows)
        return {
            row.trial_id: row.variant
            + (f" seed {row.seed}" if times[row.variant] > 1 else "")
            + (f" ({row.state})" if row.state != "done" else "")
            for row in rows
        }


def select(results: Results, standings: Sequence[Standing]) -> Shown:
    """Return the best measured trials of each model, and what was left out."""
    by_model: dict[str, list[Standing]] = {}
    for row in standings:
        if is_measured(row):
            by_model.setdefault(row.model, []).append(row)
    models = dict(list(by_model.items())[:MODELS])
    most = max(2, min(OF_MODEL, TRIALS // max(1, len(models))))
    fronts: dict[str, set[str]] = {}
    for point in results.pareto():
        fronts.setdefault(point.measure, set()).add(point.trial_id)
    front = set[str]().union(*fronts.values())
    shown = {model: _best(rows, front, most) for model, rows in models.items()}
    trials = {row.trial_id for rows in shown.values() for row in rows}
    left_out = []
    if hidden := len(by_model) - len(models):
        left_out.append(f"{hidden} more models are left out; these are the first {len(models)} of the spec.")
    if hidden := sum(map(len, models.values())) - len(trials):
        left_out.append(
            f"{hidden} more trials are left out; these are dense and the best of each model, {most} at most: "
            "those on the Pareto front, then those with the least change in bits per byte, or in accuracy."
        )
    languages, metrics = results.perplexity(), results.tasks()
    languages, hidden_languages = _first(languages, [row.language for row in languages], "languages")
    tasks = [row for row in metrics if row.main]
    tasks, hidden_tasks = _first(tasks, [row.task for row in tasks], "tasks")
    return Shown(
        study=results.about().study,
        models=shown,
        languages=[row for row in languages if row.trial_id in trials],
        tasks=[row for row in tasks if row.trial_id in trials],
        fronts=fronts,
        names=short_names(by_model),
        left_out=(*left_out, *hidden_languages, *hidden_tasks),
    )


def is_measured(row: Standing) -> bool:
    """Return whether a trial has any result."""
    return row.languages is not None or row.tasks is not None


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Return the last part of each id without the suffix of its file, or all of it where two would be called alike."""
    models = list(models)
    short = {
        model: on_one_line(model).rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf") or model
        for model in models
    }
    times = Counter(short.values())
    return {model: name if times[name] == 1 else model for model, name in short.items()}


def bounded(rows: Sequence[Entry], what: str, most: int = ROWS) -> tuple[Sequence[Entry], tuple[str, ...]]:
    """Return the first rows, and a sentence about those that are left out."""
    hidden = len(rows) - most
    return rows[:most], (f"{hidden} more {what} are left out.",) if hidden > 0 else ()


def _first(
    rows: list[Entry], subjects: list[str], what: str, most: int = COLUMNS
) -> tuple[list[Entry], tuple[str, ...]]:
    """Return the rows of the first languages or tasks."""
    kept, sentences = bounded(list(dict.fromkeys(subjects)), what, most)
    chosen = set(kept)
    return [row for row, subject in zip(rows, subjects, strict=True) if subject in chosen], sentences


def _best(rows: list[Standing], front: set[str], most: int) -> list[Standing]:
    if len(rows) <= most:
        return rows

    def worth(row: Standing) -> tuple[bool, bool, bool, float]:
        change, in_accuracy = row.bits_per_byte_change, row.acc_change
        cost = change if change is not None else -in_accuracy if in_accuracy is not None else 0.0
        unmeasured = change is None and in_accuracy is None
        return row.variant != "dense", row.trial_id not in front, unmeasured, cost

    kept = {row.trial_id for row in sorted(rows, key=worth)[:most]}
    return [row for row in rows if row.trial_id in kept]

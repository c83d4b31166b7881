"""95 % intervals of what a variant changes, paired with the dense model by window and by item, in closed form.

They say how far a figure depends on which windows and items were scored, and nothing about other texts, languages or tasks.

- A language: a change per token (byte, character) is a ratio of sums over windows, ``r = Σd / Σt``, in which long windows
  weigh more. Its variance is ``n/(n-1) · Σ(d - r·t)² / (Σt)²`` (Cochran 1977, section 2.11; ``s²/n`` where windows have one
  length), its interval that of Student's t with ``n - 1`` degrees of freedom. Where :data:`MANY_DOCUMENTS` documents give
  several windows each, ``n`` counts documents, and ``d`` and ``t`` are their sums.
- A mean over L languages: ``V = Σu / L²`` of the languages' variances ``u``, with ``(Σu)² / Σ(u²/(n-1))`` degrees of freedom
  (Satterthwaite 1946).
- A task, and a mean over tasks: as in :mod:`studyctl.findings.items`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from studyctl.contract.limits import LEAST_UNITS
from studyctl.findings.cells import MANY_DOCUMENTS
from studyctl.findings.estimates import Z, exp, student
from studyctl.findings.items import Flips, tango
from studyctl.store.schema import LEAD
from studyctl.store.task_items import Lead, TaskPairs

Reals = NDArray[np.float64]


class Measure(NamedTuple):
    """A figure of a language: a sum over its windows divided by their size."""

    name: str
    sum: str
    """One of :data:`_SUMS`."""
    size: str
    """Another one."""
    shown: Callable[[float], float] = float
    """From the quotient to the figure."""


MEASURES = (
    Measure("ppl_ratio", "nll", "tokens", exp),
    Measure("bits_per_byte_change", "bits", "bytes"),
    Measure("bits_per_character_change", "bits", "characters"),
    Measure("kl_nats", "kl", "tokens"),
    Measure("kl_nats_per_byte", "kl", "bytes"),
)
_SUMS = {
    "nll": "w.nll_nats - d.nll_nats",
    "bits": "(w.nll_nats - d.nll_nats) / ln(2)",
    "kl": "w.kl_nats",
    "tokens": "w.tokens",
    "bytes": "w.bytes",
    "characters": "w.characters",
}
_WINDOWS = f"""
WITH counts AS (
    SELECT trial_id, model, variant, language, count(*) AS windows FROM windows GROUP BY ALL
), texts AS (
    SELECT model, language, count(document) FILTER (windows > 1) >= {MANY_DOCUMENTS} AS by_document
    FROM (SELECT model, language, document, count(*) AS windows FROM windows WHERE variant = 'dense' GROUP BY ALL)
    GROUP BY ALL
), units AS (
    SELECT w.trial_id, w.model, w.method, w.variant, w.language,
        CASE WHEN t.by_document THEN w.document ELSE w."window" END AS unit, count(*) AS windows,
        {", ".join(f"CASE WHEN count({sql}) = count(*) THEN sum({sql}) END AS {name}" for name, sql in _SUMS.items())}
    FROM windows w
    JOIN windows d ON d.model = w.model AND d.language = w.language AND d."window" = w."window" AND d.tokens = w.tokens
    JOIN texts t ON t.model = w.model AND t.language = w.language
    WHERE w.variant <> 'dense' AND d.variant = 'dense'
    GROUP BY ALL
)
SELECT u.trial_id, u.model, u.method, u.variant, u.language, {", ".join(f"list(u.{name} ORDER BY unit)" for name in _SUMS)}
FROM units u
JOIN counts c ON c.trial_id = u.trial_id AND c.language = u.language
JOIN counts d ON d.model = u.model AND d.language = u.language AND d.variant = 'dense'
GROUP BY ALL
-- The figures are those of all windows of both models.
HAVING sum(u.windows) = any_value(c.windows) AND sum(u.windows) = any_value(d.windows)
ORDER BY ALL
"""


class Estimate(NamedTuple):
    """A figure with the variance of its sampling."""

    value: float
    variance: float
    units: int
    """Windows, documents, items or passages."""


def intervals(
    connection: duckdb.DuckDBPyConnection,
    pairs: Iterable[TaskPairs],
    above_chance: Container[tuple[str, str, str]],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table ``intervals``: figures by language, changes by task, and their means.

    Args:
        connection: database with the table ``windows``.
        pairs: the tasks of all variants.
        above_chance: keys of those whose scores are above chance.
    """
    yield from _of_languages(connection)
    enough = [pair for pair in pairs if pair.complete and pair.passages >= LEAST_UNITS]
    yield from _of_tasks(enough, above_chance)


# -- languages


def _of_languages(connection: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    """Yield a row for each trial, measure and language, and one for the mean over the languages."""
    together: dict[tuple[Lead, Measure], list[Estimate]] = defaultdict(list)
    for row in connection.execute(_WINDOWS).fetchall():
        lead, language = row[:4], row[4]
        sums = {name: np.array(values, float) for name, values in zip(_SUMS, row[5:], strict=True)}
        for measure in MEASURES:
            estimate = ratio_of_sums(sums[measure.sum], sums[measure.size])
            if estimate is not None:
                together[lead, measure].append(estimate)
                ends = student(estimate.value, estimate.variance, estimate.units - 1)
                yield _row(lead, measure.name, language, estimate.units, map(measure.shown, ends))
    for (lead, measure), languages in together.items():
        ends = student(*mean_of_languages(languages))
        yield _row(lead, measure.name, None, len(languages), map(measure.shown, ends))


def ratio_of_sums(sums: Reals, sizes: Reals) -> Estimate | None:
    """Return ``Σd / Σt`` over units; None for too few units, and where something is not finite (a missing value is NaN).

    Args:
        sums: ``d`` of every unit, ``[units]``.
        sizes: ``t`` of every unit, ``[units]``.
    """
    units, size = len(sums), sizes.sum()
    if units < LEAST_UNITS or not (size > 0 and np.isfinite(sums).all()):
        return None
    ratio = sums.sum() / size
    variance = units / (units - 1) * np.square(sums - ratio * sizes).sum() / size**2
    return Estimate(float(ratio), float(variance), units)


def mean_of_languages(languages: Sequence[Estimate]) -> tuple[float, float, float]:
    """Return the mean, its variance, and Satterthwaite's degrees of freedom."""
    count = len(languages)
    total = sum(language.variance for language in languages)
    squares = sum(language.variance**2 / (language.units - 1) for language in languages)
    mean = sum(language.value for language in languages) / count
    return mean, total / count**2, total**2 / squares if squares else math.inf


# -- tasks


def _of_tasks(
    pairs: Sequence[TaskPairs], above_chance: Container[tuple[str, str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each trial, task and metric, and one for the mean over tasks: over all, and over those above chance."""
    together: dict[tuple[Lead, str], list[TaskPairs]] = defaultdict(list)
    ends = {}
    for pair, of_task in zip(pairs, _task_ends(pairs), strict=True):
        ends[pair.key] = of_task
        yield _row(pair.lead, pair.metric, pair.task, pair.passages, of_task)
        if pair.averaged:
            together[pair.lead, "main"].append(pair)
            if pair.key in above_chance:
                together[pair.lead, "main_above_chance"].append(pair)
    for (lead, measure), tasks in together.items():
        of_mean = ends[tasks[0].key] if len(tasks) == 1 else mean_of_tasks(tasks)
        yield _row(lead, measure, None, len(tasks), of_mean)


def _task_ends(pairs: Sequence[TaskPairs]) -> Iterator[tuple[float, float]]:
    """Yield the interval of each task."""
    # Passages that all changed alike have no variance, but that is no certainty: their number is taken for that of the items.
    weights = np.array([pair.passages / pair.items for pair in pairs])
    wins, losses, items = (
        np.array([getattr(pair, name) for pair in pairs]) * weights
        for name in ("wrong_to_right", "right_to_wrong", "items")
    )
    for pair, *scored in zip(pairs, *tango(wins, losses, items), strict=True):
        variance = clustered_variance(pair)
        if pair.binary and (pair.passages == pair.items or not variance):
            yield scored[0], scored[1]
        else:
            low, high = student(pair.change, variance, pair.passages - 1)
            yield (max(low, -1.0), min(high, 1.0)) if pair.binary else (low, high)


def clustered_variance(pair: TaskPairs) -> float:
    """Return the variance of the mean difference over passages."""
    return pair.passages / (pair.passages - 1) * pair.squares / pair.items**2


def mean_of_tasks(tasks: Sequence[TaskPairs]) -> tuple[float, float]:
    """Return the interval of the mean of the tasks' differences."""
    count, total = len(tasks), 0.0
    for task in tasks:
        variance = clustered_variance(task)
        if task.binary and (task.passages == task.items or not variance):
            weight = task.passages / task.items
            flips = Flips(task.wrong_to_right * weight, task.right_to_wrong * weight, task.passages)
            variance = flips.variance_in_mean(count)
        total += variance
    mean = sum(task.change for task in tasks) / count
    half = Z * math.sqrt(total) / count
    return mean - half, mean + half


def _row(lead: Lead, measure: str, subject: str | None, units: int, ends: Iterable[float]) -> dict[str, Any]:
    low, high = ends
    slack = 1e-12 * max(abs(low), abs(high))  # the figure itself is summed in another order
    low, high = low - slack, high + slack
    values = {"measure": measure, "subject": subject, "pairs": units, "low": low, "high": high}
    return {**dict(zip(LEAD, lead, strict=True)), **values}

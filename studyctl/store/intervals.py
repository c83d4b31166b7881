"""Bootstrap intervals of the changes that a variant makes, paired with the dense model by window and by item.

A percentile bootstrap (Efron 1979): the differences to dense are resampled with replacement, the figure is computed from each
sample, and the interval reaches from its 2.5th to its 97.5th percentile. It says how far the figure depends on which windows and
items were scored, and nothing about other texts or tasks. The seed depends only on the language or task and the number of pairs:
the same results always have the same interval, and all variants use the same resampled windows.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from studyctl.store.schema import LEAD

DRAWS = 1000
PERCENTILES = (2.5, 97.5)
LEAST_PAIRS = 10
"""With fewer windows or items there is no interval: they say too little about their spread."""

Draws = NDArray[np.float64]
"""``[DRAWS]``: the figure of each bootstrap sample."""
Lead = tuple[str, ...]
"""The values of :data:`LEAD`, which identify a trial."""
Figure = tuple[Lead, str, str, int, Draws]
"""Trial, measure, language or task, pairs, draws."""

_WINDOWS = """
SELECT w.trial_id, w.model, w.method, w.variant, w.language, list(w.nll_nats - d.nll_nats ORDER BY w."window"), any_value(w.tokens)
FROM windows w JOIN windows d ON d.model = w.model AND d.language = w.language AND d."window" = w."window" AND d.tokens = w.tokens
WHERE d.variant = 'dense' AND w.variant <> 'dense'
GROUP BY w.trial_id, w.model, w.method, w.variant, w.language
HAVING count(DISTINCT w.tokens) = 1 AND bool_and(isfinite(w.nll_nats - d.nll_nats)) IS TRUE
   AND count(w.nll_nats - d.nll_nats) = count(*)
ORDER BY ALL
"""


def intervals(
    connection: duckdb.DuckDBPyConnection, task_flips: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of the table ``intervals``: perplexity ratios by language, changes of accuracy by task, and their means.

    Args:
        connection: database with the tables ``windows`` and ``tasks``.
        task_flips: rows of the table ``task_flips``.
    """
    averaged = frozenset(
        connection.execute("SELECT DISTINCT task, metric FROM tasks WHERE averaged").fetchall()
    )
    return [*_ratio_rows(_ratios(connection)), *_change_rows(_changes(task_flips), averaged)]


def _ratios(connection: duckdb.DuckDBPyConnection) -> Iterator[Figure]:
    """Yield the bootstrap samples of log perplexity ratios, one figure per trial and language."""
    by_size: dict[tuple[str, int, int], list[tuple[Any, ...]]] = defaultdict(list)
    for *lead, language, differences, tokens in connection.execute(_WINDOWS).fetchall():
        if len(differences) >= LEAST_PAIRS:
            by_size[language, len(differences), tokens].append((tuple(lead), differences))
    for (language, count, tokens), trials in by_size.items():
        differences = np.array([values for _, values in trials]).T
        middle = differences.mean(axis=0)
        # Samples vary by the standard deviation of these windows, which underestimates that of all windows.
        wider = (count / (count - 1)) ** 0.5
        # How often each window is in each sample: [DRAWS, count].
        counts = _generator(language, count).multinomial(count, np.full(count, 1 / count), size=DRAWS)
        drawn = middle + (counts.astype(np.float64) @ differences / count - middle) * wider
        for (lead, _), draws in zip(trials, drawn.T, strict=True):
            yield lead, "ppl_ratio", language, count, draws / tokens


def _changes(task_flips: Sequence[dict[str, Any]]) -> Iterator[Figure]:
    """Yield the bootstrap samples of changes of accuracy, one figure per trial, task and metric."""
    for row in task_flips:
        if row["items"] >= LEAST_PAIRS:
            lead = tuple(row[name] for name in LEAD)
            draws = _flip_draws(row["task"], row["items"], row["right_to_wrong"], row["wrong_to_right"])
            yield lead, row["metric"], row["task"], row["items"], draws


@lru_cache(maxsize=4096)
def _flip_draws(task: str, items: int, right_to_wrong: int, wrong_to_right: int) -> Draws:
    """Return the bootstrap samples of a change of accuracy, drawn from the counts of flips.

    Half an item is added to each cell of the paired table (Agresti & Min 2005): without it, few or no flips would look certain.
    """
    cells = np.array([wrong_to_right, right_to_wrong, items - wrong_to_right - right_to_wrong])
    shares = (cells + np.array([0.5, 0.5, 1.0])) / (items + 2)
    drawn = _generator(task, items).multinomial(items, shares, size=DRAWS)
    changes: Draws = (drawn[:, 0] - drawn[:, 1]) / items
    return changes


def _generator(name: str, count: int) -> np.random.Generator:
    seed = hashlib.blake2b(f"{name} {count}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(seed, "little"))


def _ratio_rows(figures: Iterator[Figure]) -> Iterator[dict[str, Any]]:
    """Yield a row for each language, and one for the geometric mean over languages."""
    together: dict[Lead, list[Draws]] = defaultdict(list)
    for lead, measure, subject, pairs, draws in figures:
        together[lead].append(draws)
        yield _row(lead, measure, subject, pairs, np.exp(draws))
    for lead, languages in together.items():
        yield _row(lead, "ppl_ratio", None, len(languages), np.exp(np.mean(languages, axis=0)))


def _change_rows(figures: Iterator[Figure], averaged: frozenset[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each task and metric, and one for the mean over tasks of the averaged main metrics."""
    together: dict[Lead, list[Draws]] = defaultdict(list)
    for lead, measure, subject, pairs, draws in figures:
        if (subject, measure) in averaged:
            together[lead].append(draws)
        yield _row(lead, measure, subject, pairs, draws)
    for lead, tasks in together.items():
        yield _row(lead, "main", None, len(tasks), np.mean(tasks, axis=0))


def _row(lead: Lead, measure: str, subject: str | None, pairs: int, draws: Draws) -> dict[str, Any]:
    low, high = np.percentile(draws, PERCENTILES)
    values = {"measure": measure, "subject": subject, "pairs": pairs, "low": float(low), "high": float(high)}
    return {**dict(zip(LEAD, lead, strict=True)), **values}

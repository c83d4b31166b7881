"""What the items of tasks say: how a variant changes them, paired with the dense model's, and whether scores are above chance."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from studyctl.store.schema import LEAD

CHANCE_LEVEL = 0.05
"""A score is above chance if guessing reaches it with a lower probability."""

Lead = tuple[str, str, str, str]
"""The values of :data:`LEAD`, which identify a trial."""


class TaskPairs(NamedTuple):
    """The items of a task that a variant and its dense model were both scored on, by one metric."""

    lead: Lead
    task: str
    metric: str
    averaged: bool
    """Whether the metric counts in means over tasks."""
    items: int
    passages: int
    """Texts that the items are about."""
    binary: bool
    """Whether every item is right or wrong."""
    dense_sum: float
    """Sum over the items of the dense model's scores."""
    sum: float
    right_to_wrong: int
    wrong_to_right: int
    squares: float
    """Of the differences ``x`` from their mean: Σ over passages of (Σ over items of ``x - mean``)²."""
    complete: bool
    """Whether these items alone make the stored figures: their means are the values of both models."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Return trial, task and metric."""
        return self.lead[0], self.task, self.metric

    @property
    def change(self) -> float:
        """Return the mean difference."""
        return (self.sum - self.dense_sum) / self.items


_JUDGED = """
judged AS (
    SELECT i.trial_id, i.model, i.method, i.variant, i.task, i.item, i.passage, t.metric, t.averaged, t.value,
        coalesce(i.score, i.correct) AS score
    FROM items i JOIN tasks t ON t.trial_id = i.trial_id AND t.task = i.task AND t.main
    UNION ALL
    SELECT i.trial_id, i.model, i.method, i.variant, i.task, i.item, i.passage, t.metric, t.averaged, t.value, i.correct_norm
    FROM items i JOIN tasks t ON t.trial_id = i.trial_id AND t.task = i.task AND NOT t.main AND t.metric = 'acc_norm'
)"""

_PAIRS = f"""
WITH {_JUDGED}, texts AS (
    SELECT model, task, count(DISTINCT passage) < count(passage) AS shared FROM items WHERE variant = 'dense' GROUP BY ALL
), passages AS (  -- of a task whose items have a passage each, one group for all: a million groups would take seconds
    SELECT i.trial_id, i.model, i.method, i.variant, i.task, i.metric, i.averaged, i.value, d.value AS dense_value, t.shared,
        CASE WHEN t.shared THEN coalesce(i.passage, i.item::VARCHAR) END AS passage,
        count(*) AS items, sum(i.score) AS sum, sum(d.score) AS dense_sum, sum(i.score - d.score) AS difference,
        sum(pow(i.score - d.score, 2)) AS squares,
        bool_and(i.score IN (0, 1) AND d.score IN (0, 1)) AS is_binary,
        count(*) FILTER (WHERE d.score > i.score) AS worse, count(*) FILTER (WHERE d.score < i.score) AS better
    FROM judged i
    JOIN judged d ON d.model = i.model AND d.task = i.task AND d.item = i.item AND d.metric = i.metric
    JOIN texts t ON t.model = i.model AND t.task = i.task
    WHERE d.variant = 'dense' AND i.variant <> 'dense' AND isfinite(d.score) AND isfinite(i.score)
    GROUP BY ALL
)
SELECT trial_id, model, method, variant, task, metric, averaged, sum(items)::BIGINT AS all_items,
    CASE WHEN shared THEN count(*) ELSE all_items END, bool_and(is_binary), sum(dense_sum) AS dense_total, sum(sum) AS total,
    sum(worse)::BIGINT, sum(better)::BIGINT,
    greatest(0, CASE WHEN shared
        THEN sum(pow(difference, 2)) - 2 * (total - dense_total) / all_items * sum(difference * items)
            + pow((total - dense_total) / all_items, 2) * sum(pow(items, 2))
        ELSE sum(squares) - pow(total - dense_total, 2) / all_items END),
    coalesce(abs(total / all_items - value) < 1e-9 AND abs(dense_total / all_items - dense_value) < 1e-9, false)
FROM passages
GROUP BY trial_id, model, method, variant, task, metric, averaged, shared, value, dense_value
ORDER BY ALL
"""


def task_pairs(connection: duckdb.DuckDBPyConnection) -> list[TaskPairs]:
    """Return every task that a variant and its dense model have items of, by its main metric and by acc_norm.

    Args:
        connection: database with the tables ``items`` and ``tasks``.
    """
    return [TaskPairs(row[:4], *row[4:]) for row in connection.execute(_PAIRS).fetchall()]


# -- chance

_CHOICES = """
SELECT model, task, len(loglikelihoods), gold, count(*) FROM items WHERE variant = 'dense' GROUP BY ALL ORDER BY ALL
"""

_DENSE = f"""
WITH {_JUDGED}
SELECT trial_id, model, method, variant, task, metric, sum(score)
FROM judged WHERE variant = 'dense' GROUP BY ALL HAVING bool_and(score IN (0, 1)) AND count(score) = count(*) ORDER BY ALL
"""


class Guessing(NamedTuple):
    """What guessing scores in a task: choices at random, or always the commonest answer, whichever is better."""

    choices: tuple[tuple[int, int], ...]
    """Numbers of choices (0 or 1: the answer is generated, and cannot be guessed) and how many items have it."""
    commonest: float
    """Share of the commonest right answer."""

    @classmethod
    def of(cls, choices: Counter[int], golds: Counter[int | None]) -> "Guessing":
        """Return it for a task, of how many items have so many choices (0: none), and this right answer (None: not a choice)."""
        commonest = max((items for gold, items in golds.items() if gold is not None), default=0)
        return cls(tuple(sorted(choices.items())), commonest / choices.total())

    @property
    def items(self) -> int:
        """Return the number of items."""
        return sum(items for _, items in self.choices)

    @property
    def chance(self) -> float:
        """Return the mean score."""
        drawn = sum(items * _share(choices) for choices, items in self.choices) / self.items
        return max(drawn, self.commonest)

    def p(self, right: float) -> float:
        """Return the probability of so many right answers or more, which is exact: a Poisson binomial distribution."""
        tail = _tail(self.choices if self.commonest < self.chance else None, self.items, self.commonest)
        return float(tail[int(np.ceil(right))])


def task_chance(
    connection: duckdb.DuckDBPyConnection, pairs: Iterable[TaskPairs]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table ``task_chance``, for metrics by which items are right or wrong.

    A variant is judged by the mean of its right answers and the dense model's: to judge by the dense model's alone would
    choose the tasks in which that was lucky, and make every variant look worse.

    Args:
        connection: database with the tables ``items`` and ``tasks``.
        pairs: the tasks of all variants.
    """
    choices: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    golds: dict[tuple[str, str], Counter[int | None]] = defaultdict(Counter)
    for model, task, count, gold, items in connection.execute(_CHOICES).fetchall():
        choices[model, task][count or 0] += items
        golds[model, task][gold] += items
    guessing = {key: Guessing.of(of_task, golds[key]) for key, of_task in choices.items()}
    for *lead, task, metric, right in connection.execute(_DENSE).fetchall():
        yield _chance_row(tuple(lead), task, metric, guessing[lead[1], task], right)
    for pair in pairs:
        guess = guessing[pair.lead[1], pair.task]
        if pair.binary and pair.items == guess.items:
            yield _chance_row(pair.lead, pair.task, pair.metric, guess, (pair.dense_sum + pair.sum) / 2)


def _chance_row(
    lead: tuple[str, ...], task: str, metric: str, guess: Guessing, right: float
) -> dict[str, Any]:
    p = guess.p(right)
    values = {"task": task, "metric": metric, "chance": guess.chance, "p": p, "above": p < CHANCE_LEVEL}
    return {**dict(zip(LEAD, lead, strict=True)), **values}


def _share(choices: int) -> float:
    return 1 / choices if choices > 1 else 0.0


@lru_cache(maxsize=1024)
def _tail(choices: tuple[tuple[int, int], ...] | None, items: int, share: float) -> NDArray[np.float64]:
    """Return the probability of k right answers or more, ``[items + 1]``: of items with these choices, or with this share each."""
    groups = [(count, _share(number)) for number, count in choices] if choices else [(items, share)]
    distribution = np.ones(1)
    for count, probability in groups:
        distribution = np.convolve(distribution, _binomial(count, probability))
    tail: NDArray[np.float64] = np.minimum(distribution[::-1].cumsum()[::-1], 1)
    return tail


def _binomial(items: int, share: float) -> NDArray[np.float64]:
    """Return the probability of 0 to ``items`` successes."""
    k = np.arange(items + 1)
    if share in (0, 1):
        return np.where(k == share * items, 1.0, 0.0)
    ways = gammaln(items + 1) - gammaln(k + 1) - gammaln(items - k + 1)
    shares: NDArray[np.float64] = np.exp(ways + k * np.log(share) + (items - k) * np.log1p(-share))
    return shares

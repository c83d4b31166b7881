"""Results of small studies, made in memory: only what verdicts read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from studyctl.contract.hypotheses import Measure, Metric, PlannedHypothesis, Sides
from studyctl.findings.tables import TableRow, tables
from studyctl.store.schema import create_schema
from studyctl.store.task_items import task_chance, task_pairs

Rows = dict[str, list[TableRow]]
Floats = Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]
MEASURED = datetime.fromisoformat("2026-01-02")
"""When the first attempt of every trial began."""


def against(left: str | Sequence[str], right: str | Sequence[str]) -> Sides:
    sides = [(side,) if isinstance(side, str) else tuple(side) for side in (left, right)]
    return Sides(*sides)


def hypothesis(metric: str, *pairs: Sides, name: str = "claim", **settings: Any) -> PlannedHypothesis:
    """Return a hypothesis as the plan resolves it: ``left`` against ``right`` unless pairs are named."""
    metrics = tuple(map(Metric.parse, metric.split(", ")))
    margin = settings.pop("margin", metrics[0].measure.margin if len(metrics) == 1 else None)
    pairs = pairs or (() if len(metrics) > 1 else (against("left", "right"),))
    return PlannedHypothesis(
        name=name, claim="", hash=f"hash of {name}", metrics=metrics, pairs=pairs, margin=margin, **settings
    )


@dataclass
class Study:
    """Trials with their windows and items; a variant of a model exists as soon as something of it is added."""

    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def trial(self, variant: str, model: str = "m", **changes: Any) -> str:
        """Add a trial, or change it; of a seed if one is named. Return its id."""
        name = f"{model}.{variant}.{changes.get('seed')}"
        usual = {
            "trial_id": name, "model": model, "method": variant.partition("-")[0], "variant": variant,
            "state": "done", "device_kind": "cpu", "position": len(self.trials),
        }  # fmt: skip
        self.trials[name] = self.trials.get(name, usual) | changes
        return name

    def windows(
        self,
        variant: str,
        nll: Floats | None = None,
        *,
        kl: Floats | None = None,
        model: str = "m",
        language: str = "en",
        seed: int | None = None,
        **columns: Any,
    ) -> None:
        """Add windows of 100 tokens and 400 bytes, unless columns say otherwise; nll counts from 300 nats."""
        lead = self._lead(variant, model, seed)
        count = len(next(value for value in (nll, kl, *columns.values()) if value is not None))
        values = {"tokens": [100] * count, "bytes": [400] * count, "document": range(count)} | columns
        values |= {"nll_nats": [300.0 + change for change in (nll if nll is not None else [0.0] * count)]}
        if kl is not None:
            values["kl_nats"] = list(kl)
        self._step(lead, "perplexity", language)
        for window in range(count):
            row = {name: column[window] for name, column in values.items()}
            self._add("windows", lead | {"language": language, "window": window} | row)

    def items(
        self,
        variant: str,
        scores: Floats,
        *,
        model: str = "m",
        task: str = "arc",
        seed: int | None = None,
        averaged: bool = True,
        choices: Iterable[Sequence[float]] | None = None,
        passages: Sequence[str | None] | None = None,
    ) -> None:
        """Add the items of a task of two choices, of which the first is right."""
        lead = self._lead(variant, model, seed) | {"task": task}
        count = len(scores)
        metric = {
            "metric": "acc",
            "value": sum(scores) / count,
            "items": count,
            "main": True,
            "averaged": averaged,
        }
        self._add("tasks", lead | metric)
        self._step(lead, "task", task)
        likelihoods = list(choices) if choices is not None else [[0.0, 0.0]] * count
        for item, score in enumerate(scores):
            passage = passages[item] if passages is not None else None
            row = {"item": item, "gold": 0, "score": float(score), "loglikelihoods": likelihoods[item]}
            self._add("items", lead | row | {"passage": passage})

    def find(self, *hypotheses: PlannedHypothesis, declared: Mapping[str, datetime] | None = None) -> Rows:
        """Return the tables of findings."""
        with self.database() as connection:
            return tables(connection, hypotheses, declared or {})

    def verdict(self, asked: PlannedHypothesis, declared: datetime | None = None) -> TableRow:
        """Return the row of one hypothesis."""
        times = {asked.hash: declared} if declared is not None else {}
        return self.find(asked, declared=times)["hypotheses"][0]

    def parts(self, asked: PlannedHypothesis) -> dict[tuple[str, str], TableRow]:
        """Return the parts of one hypothesis, by kind and subject."""
        rows = self.find(asked)["hypothesis_rows"]
        of_place = {(row["kind"], row["subject"]): row for row in rows}
        assert len(of_place) == len(rows)
        return of_place

    @contextmanager
    def database(self, shuffled: np.random.Generator | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a database with these results; its rows of windows and items in any order."""
        connection = _empty()
        connection.execute("BEGIN")
        try:
            for table, rows in {"trials": list(self.trials.values()), **self.rows}.items():
                if shuffled is not None and table in ("windows", "items"):
                    rows = [rows[place] for place in shuffled.permutation(len(rows))]
                _insert(connection, table, rows)
            if "items" in self.rows:
                _insert(connection, "task_chance", list(task_chance(connection, task_pairs(connection))))
            yield connection
        finally:
            connection.execute("ROLLBACK")

    def _lead(self, variant: str, model: str, seed: int | None) -> dict[str, Any]:
        trial = self.trials[self.trial(variant, model, seed=seed)]
        return {name: trial[name] for name in ("trial_id", "model", "method", "variant")}

    def _step(self, lead: dict[str, Any], kind: str, subject: str) -> None:
        step = {"step": f"{kind}:{subject}", "kind": kind, "subject": subject, "state": "done"}
        named = {name: value for name, value in lead.items() if name != "task"}
        self._add("steps", named | step | {"measured_since": MEASURED})

    def _add(self, table: str, row: dict[str, Any]) -> None:
        self.rows.setdefault(table, []).append(row)


@cache
def _empty() -> duckdb.DuckDBPyConnection:
    """Return a database without rows; to create its tables takes longer than most tests."""
    connection = duckdb.connect(config={"threads": 1})
    create_schema(connection)
    return connection


@cache
def _columns(table: str) -> list[str]:
    return _empty().table(table).columns


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        names = _columns(table)
        connection.register("arriving", pa.table({name: [row.get(name) for row in rows] for name in names}))
        connection.execute(f"INSERT INTO {table} SELECT * FROM arriving")
        connection.unregister("arriving")


def of_differences(**languages: Floats) -> Study:
    """Return a study of one model whose left side needs so many nats more than the right one, by language."""
    study = Study()
    for language, differences in languages.items():
        study.windows("left", differences, language=language)
        study.windows("right", [0.0] * len(differences), language=language)
    return study


BITS = 1 / (400 * np.log(2))
"""From nats of a window to bits per byte."""
MEASURES = tuple(Measure)

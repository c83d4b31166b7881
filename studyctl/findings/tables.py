"""The rows of the tables of findings: ``hypotheses``, ``hypothesis_rows``, ``hypothesis_pairs`` and ``reversals``."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb

from studyctl.contract.hypotheses import Measure, PlannedHypothesis, Verdict
from studyctl.contract.steps import StepKind
from studyctl.findings.cells import Figures
from studyctl.findings.estimates import exp
from studyctl.findings.hypotheses import Comparison, Outcome, Trial
from studyctl.findings.ranks import RankOutcome, compare_ranks
from studyctl.findings.verdicts import Tested, holm

TableRow = dict[str, Any]


def tables(
    connection: duckdb.DuckDBPyConnection,
    hypotheses: Sequence[PlannedHypothesis],
    declared: Mapping[str, datetime],
) -> dict[str, list[TableRow]]:
    """Return the rows of every table of findings.

    Args:
        connection: database with the tables of results, and ``task_chance``.
        hypotheses: those of the spec.
        declared: when a run first recorded a hypothesis, by its hash; UTC, without a time zone.
    """
    rows: dict[str, list[TableRow]] = {
        name: [] for name in ("hypotheses", "hypothesis_rows", "hypothesis_pairs", "reversals")
    }
    if not hypotheses:
        return rows
    study = _Study(connection)
    figures = Figures(connection, study.compared_by(hypotheses))
    outcomes: list[tuple[Outcome, RankOutcome | None]] = []
    for hypothesis in hypotheses:
        if hypothesis.is_of_ranks:
            ranks = compare_ranks(hypothesis, study.trials, figures)
            outcomes.append((ranks.outcome, ranks))
        else:
            outcomes.append((Comparison(hypothesis, study.trials, figures).run(), None))
    _adjust([outcome for outcome, _ in outcomes])
    for position, (outcome, of_ranks) in enumerate(outcomes):
        row = _row(outcome, of_ranks) | study.about(outcome, declared) | {"position": position}
        rows["hypotheses"].append(row)
        rows["hypothesis_rows"] += _part_rows(outcome)
        rows["hypothesis_pairs"] += study.pair_rows(outcome)
        rows["reversals"] += _reversal_rows(outcome.hypothesis, of_ranks)
    return rows


def _adjust(outcomes: Sequence[Outcome]) -> None:
    """Adjust p within each family."""
    families: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.verdict is None:
            families[outcome.hypothesis.family].append(outcome)
    for of_family in families.values():
        adjusted = holm([outcome.p if outcome.p is not None else 1.0 for outcome in of_family])
        for outcome, p_adjusted in zip(of_family, adjusted, strict=True):
            outcome.adjust(p_adjusted, len(of_family))


_MEASURED = f"""
SELECT trial_id, kind, subject, measured_since FROM steps
WHERE state = 'done' AND kind IN ('{StepKind.PERPLEXITY}', '{StepKind.TASK}')
"""


class _Study:
    """The trials of a study, and what a verdict must say of them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        columns = ", ".join(Trial._fields)
        self.trials = [
            Trial(*row)
            for row in connection.execute(f"SELECT {columns} FROM trials ORDER BY position").fetchall()
        ]
        self._of_id = {trial.trial_id: trial for trial in self.trials}
        self._of_variant: dict[str, list[Trial]] = defaultdict(list)
        for trial in self.trials:
            self._of_variant[trial.variant].append(trial)
        self._measured: dict[str, list[tuple[str, str, datetime | None]]] = defaultdict(list)
        for name, *step in connection.execute(_MEASURED).fetchall():
            self._measured[name].append((step[0], step[1], step[2]))

    def compared_by(self, hypotheses: Iterable[PlannedHypothesis]) -> dict[str, list[str]]:
        """Return the trials that some hypothesis compares, by model."""
        variants: set[str] = set()
        for hypothesis in hypotheses:
            if hypothesis.is_of_ranks:
                variants |= {trial.variant for trial in self.trials if trial.variant != "dense"}
            variants |= {
                name for pair in hypothesis.pairs for side in (pair.left, pair.right) for name in side
            }
        compared: dict[str, list[str]] = defaultdict(list)
        for trial in self.trials:
            if trial.variant in variants:
                compared[trial.model].append(trial.trial_id)
        return compared

    def about(self, outcome: Outcome, declared: Mapping[str, datetime]) -> TableRow:
        """Return what a verdict rests on: when it was declared, calibration draws, devices, tasks at chance."""
        hypothesis = outcome.hypothesis
        used = [trial for trial, reason in outcome.compared.items() if reason is None]
        at = declared.get(hypothesis.hash)
        is_measured = any(metric.measure is not Measure.SIZE_MIB for metric in hypothesis.metrics)
        seeds = {self._of_id[trial].seed for trial in used if is_measured} - {None}
        notes = [*outcome.notes, *self._devices(hypothesis, used), *self._at_chance(hypothesis, used)]
        oldest = self._oldest(hypothesis, used)
        return {
            "declared": at,
            "confirmatory": None if oldest is None else at is not None and at < oldest,
            "calibration_draws": len(seeds) or None,
            "notes": notes,
        }

    def _oldest(self, hypothesis: PlannedHypothesis, used: Sequence[str]) -> datetime | None:
        """Return when the first attempt began that a verdict uses a result of."""
        results = {
            (StepKind.TASK if metric.measure.is_of_tasks else StepKind.PERPLEXITY, metric.task)
            for metric in hypothesis.metrics
            if metric.measure is not Measure.SIZE_MIB
        }
        times = [
            since
            for trial in used
            for kind, subject, since in self._measured[trial]
            if (kind, subject) in results or (kind, None) in results
        ]
        return min(filter(None, times)) if times and None not in times else None

    def _devices(self, hypothesis: PlannedHypothesis, used: Sequence[str]) -> Iterator[str]:
        """Yield a note where variants and dense were computed on different kinds of devices."""
        if all(metric.measure is Measure.SIZE_MIB for metric in hypothesis.metrics):
            return
        models = {self._of_id[trial].model for trial in used}
        dense = [trial for trial in self.trials if trial.variant == "dense" and trial.model in models]
        kinds = {trial.device_kind for trial in (*dense, *(self._of_id[name] for name in used))} - {None}
        if len(kinds) > 1:
            yield f"computed on {' and '.join(sorted(filter(None, kinds)))}: rounding alone makes some distance to dense"

    def _at_chance(self, hypothesis: PlannedHypothesis, used: Sequence[str]) -> Iterator[str]:
        """Yield a note on tasks in which no compared trial answers better than chance."""
        if not any(metric.measure is Measure.ACCURACY for metric in hypothesis.metrics):
            return
        rows = self._connection.execute(
            """
            SELECT task FROM task_chance JOIN tasks USING (trial_id, task, metric)
            JOIN (SELECT unnest($trials) AS trial_id) USING (trial_id)
            WHERE main GROUP BY task HAVING NOT bool_or(above) ORDER BY task
            """,
            {"trials": list(used)},
        ).fetchall()
        task = hypothesis.metric.task
        if names := [name for (name,) in rows if task in (None, name)]:
            yield f"at chance, so they say nothing: {', '.join(names)}"

    def pair_rows(self, outcome: Outcome) -> Iterator[TableRow]:
        """Yield which trials were compared with which."""
        hypothesis = outcome.hypothesis
        for number, pair in enumerate(hypothesis.pairs):
            for side, names in (("left", pair.left), ("right", pair.right)):
                for trial in (trial for name in names for trial in self._of_variant[name]):
                    reason = outcome.compared.get(
                        trial.trial_id, "its model has no variant of the other side"
                    )
                    if reason is None and outcome.verdict is Verdict.UNTESTABLE:
                        reason = outcome.reason
                    yield {
                        "hypothesis": hypothesis.name,
                        "pair": number,
                        "side": side,
                        "trial_id": trial.trial_id,
                        "model": trial.model,
                        "method": trial.method,
                        "variant": trial.variant,
                        "compared": reason is None,
                        "reason": reason,
                    }


def _row(outcome: Outcome, ranks: RankOutcome | None) -> TableRow:
    hypothesis = outcome.hypothesis
    if outcome.verdict is Verdict.UNTESTABLE:
        estimate, low, high = None, None, None
    elif ranks is not None:
        estimate, low, high = ranks.tau, ranks.low, ranks.high
    else:
        estimate, low, high = _shown(outcome.tested, hypothesis.metric.measure)
    needed = outcome.needed
    tested = outcome.tested
    return {
        "name": hypothesis.name,
        "claim": hypothesis.claim,
        "metric": ", ".join(map(str, hypothesis.metrics)),
        "family": hypothesis.family,
        "alternative": None if hypothesis.is_of_ranks else hypothesis.alternative,
        "generalize": hypothesis.generalize,
        "margin": hypothesis.margin,
        "estimate": estimate,
        "low": low,
        "high": high,
        "p": outcome.p,
        "p_adjusted": outcome.p_adjusted,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "units": (ranks.pairs or None) if ranks is not None else tested.units if tested is not None else None,
        "languages": outcome.subjects or None,
        "models": outcome.models,
        "models_holding": outcome.holding,
        "needed_windows": needed and needed.windows,
        "needed_languages": needed and needed.languages,
        "needed_models": needed and needed.models,
    }


def _part_rows(outcome: Outcome) -> Iterator[TableRow]:
    measure = outcome.hypothesis.metric.measure
    for row in outcome.rows:
        estimate, low, high = _shown(row.tested, measure)
        yield {
            "hypothesis": outcome.hypothesis.name,
            "kind": row.kind,
            "subject": row.subject,
            "estimate": estimate,
            "low": low,
            "high": high,
            "p": row.p,
            "p_adjusted": row.p_adjusted,
            "verdict": row.verdict,
            "reason": row.reason,
            "units": row.tested.units if row.tested is not None else None,
        }


def _reversal_rows(hypothesis: PlannedHypothesis, ranks: RankOutcome | None) -> Iterator[TableRow]:
    for pair in ranks.reversals if ranks is not None else ():
        yield {
            "hypothesis": hypothesis.name,
            "variant": pair.variant,
            "other_variant": pair.other_variant,
            "metric": str(hypothesis.metrics[0]),
            "difference": pair.differences[0],
            "p": pair.p[0],
            "other_metric": str(hypothesis.metrics[1]),
            "other_difference": pair.differences[1],
            "other_p": pair.p[1],
            "p_adjusted": pair.p_adjusted,
        }


def _shown(tested: Tested | None, measure: Measure) -> tuple[float | None, float | None, float | None]:
    """Return an estimate and the ends of its interval as they are shown: ratios for logarithms."""
    if tested is None:
        return None, None, None
    low, high = tested.ends
    if not measure.is_ratio:
        return tested.value, low, high
    return exp(tested.value), exp(low), exp(high)

"""What a study's figures say of one hypothesis: differences of two sides in every cell, put together and tested."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import NamedTuple

import numpy as np

from studyctl.contract.hypotheses import (
    By,
    Combine,
    Level,
    Measure,
    PlannedHypothesis,
    Sides,
    Verdict,
)
from studyctl.findings.cells import Figures, Side
from studyctl.findings.estimates import (
    FEW_CLUSTERS,
    Cannot,
    Estimate,
    Needed,
    interaction,
    needed,
    windows_share,
)
from studyctl.findings.grid import Cell, Grid, Pair, compared, largest, mean_at
from studyctl.findings.verdicts import Tested, claim_p, holds_alone, holm, is_same, judge, null, on_side

WINDOWS_DECIDE = 0.2
"""Where the noise of windows is a smaller share of the variance of clusters, more windows will not decide."""
SHOWN_LEFT_OUT = 3


class Trial(NamedTuple):
    """A trial of the study, as the table ``trials`` has it."""

    trial_id: str
    model: str
    method: str
    variant: str
    state: str
    seed: int | None
    device_kind: str | None
    size_mib: float | None


class Row(NamedTuple):
    """A part of a hypothesis: a row of the table ``hypothesis_rows``, figures on the scale of the estimate."""

    kind: str
    subject: str
    tested: Tested | None
    p: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict | None = None
    reason: str | None = None


@dataclass(slots=True)
class Outcome:
    """What a hypothesis came to, before its p is adjusted for those of its family."""

    hypothesis: PlannedHypothesis
    tested: Tested | None = None
    p: float | None = None
    reason: str | None = None
    rows: list[Row] = field(default_factory=list)
    models: int = 0
    subjects: int = 0
    holding: int | None = None
    needed: Needed | None = None
    notes: list[str] = field(default_factory=list)
    compared: dict[str, str | None] = field(default_factory=dict)
    """Trials, with the reason why one is not in the estimate."""
    verdict: Verdict | None = None
    """None: it is judged by ``tested`` and its adjusted p."""
    p_adjusted: float | None = None
    pairs: int = 1
    """Pairs of sides that are tested, each by itself."""

    def adjust(self, p_adjusted: float, family: int) -> None:
        """Set the adjusted p, and the verdict by it."""
        hypothesis, self.p_adjusted = self.hypothesis, p_adjusted
        assert self.tested is not None
        assert self.p is not None
        claim = (self.tested, hypothesis.metric.measure, hypothesis.alternative, hypothesis.margin)
        self.verdict = judge(*claim, p_adjusted, family * self.pairs)
        alone = judge(*claim, self.p, self.pairs)
        if self.verdict is Verdict.UNDECIDED and alone is not Verdict.UNDECIDED:
            self.notes.append(
                f"alone it would be {alone}; of {family} hypotheses tested together one is by chance"
            )
        if self.verdict is not Verdict.UNDECIDED:
            self.needed = None


class Judged(NamedTuple):
    """What the verdict on some cells is made from."""

    tested: Tested
    p: float
    pairs: int = 1
    """Pairs of sides, if the claim must hold for each: then this is the least favourable one."""


class Comparison:
    """Compares the sides of one hypothesis in a study."""

    def __init__(self, hypothesis: PlannedHypothesis, trials: Iterable[Trial], figures: Figures) -> None:
        """Take a hypothesis that compares sides, the study's trials and their figures."""
        self.hypothesis, self._figures = hypothesis, figures
        self._measure = hypothesis.metric.measure
        self._of_model: dict[str, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
        for trial in trials:
            self._of_model[trial.model][trial.variant].append(trial)
        self.outcome = Outcome(hypothesis)

    def run(self) -> Outcome:
        """Return what the hypothesis came to."""
        try:
            if self._measure is Measure.SIZE_MIB:
                self._compare_sizes()
            else:
                self._test(self._grid())
        except Cannot as cannot:
            self.outcome.reason = str(cannot)
            self.outcome.verdict = Verdict.UNTESTABLE
        return self.outcome

    # -- cells

    def _pairs(self) -> Iterator[tuple[str, dict[int, Pair]]]:
        """Yield each model that has variants of both sides of a pair, with its pairs by number."""
        for model, variants in self._of_model.items():
            pairs = {
                number: Pair(
                    *(
                        Side(tuple(_ids(variants[name]) for name in side if name in variants))
                        for side in (sides.left, sides.right)
                    )
                )
                for number, sides in enumerate(self.hypothesis.pairs)
            }
            pairs = {number: pair for number, pair in pairs.items() if all(side.variants for side in pair)}
            if pairs:
                yield model, pairs

    def _grid(self) -> Grid:
        """Return the largest complete grid of cells; what is left out becomes a note.

        Raises:
            Cannot: there is no cell.
        """
        cells: dict[tuple[str, str], Cell] = {}
        why: dict[str, str] = {}
        for model, pairs in self._pairs():
            trials = [trial for pair in pairs.values() for side in pair for trial in side.trials]
            missing = self._missing(model, frozenset(trials))
            self.outcome.compared |= dict.fromkeys(trials, missing)
            if missing is not None:
                why[model] = missing
                continue
            for number, sides in enumerate(self.hypothesis.pairs):
                if number not in pairs:
                    why[f"{model}, {_name_of(sides)}"] = "it has no such variants"
            for subject, cell in self._figures.cells(model, self.hypothesis.metric).items():
                try:
                    cells[model, subject] = compared(cell, self._measure, pairs)
                except Cannot as cannot:
                    why[f"{model}, {subject}"] = str(cannot)
        if not cells:
            raise Cannot(self._nothing(why))
        grid = largest(cells)
        others = "others lack what it has, or have what it lacks"
        why |= {
            f"{model}, {subject}": others
            for model, subject in cells
            if model not in grid.models or subject not in grid.subjects
        }
        self._leave_out(grid, why)
        self.outcome.models, self.outcome.subjects = len(grid.models), len(grid.subjects)
        return grid

    def _leave_out(self, grid: Grid, why: Mapping[str, str]) -> None:
        """Note what is not in the grid, and the trials of models of which nothing is."""
        self._note_left_out(why)
        for model, variants in self._of_model.items():
            if model not in grid.models:
                reason = next((text for where, text in why.items() if where.startswith(f"{model}, ")), None)
                for trial in (trial.trial_id for trials in variants.values() for trial in trials):
                    if trial in self.outcome.compared:
                        self.outcome.compared[trial] = (
                            self.outcome.compared[trial] or reason or "not measured"
                        )

    def _missing(self, model: str, used: frozenset[str]) -> str | None:
        """Return why a model cannot be compared: a trial that failed, or has not run yet."""
        for variant, trials in self._of_model[model].items():
            for trial in trials:
                if trial.trial_id in used and trial.state != "done":
                    return f"{variant} {_STATES[trial.state]}"
        return None

    def _nothing(self, why: Mapping[str, str]) -> str:
        if why:
            return "; ".join(f"{where}: {reason}" for where, reason in list(why.items())[:SHOWN_LEFT_OUT])
        if not any(True for _ in self._pairs()):
            return "no model has variants of both sides"
        kind = "task" if self._measure.is_of_tasks else "language"
        return f"no {kind} is measured"

    def _note_left_out(self, why: Mapping[str, str]) -> None:
        shown = [f"{where} ({reason})" for where, reason in list(why.items())[:SHOWN_LEFT_OUT]]
        more = [f"{len(why) - SHOWN_LEFT_OUT} more"] if len(why) > SHOWN_LEFT_OUT else []
        if shown:
            self.outcome.notes.append("left out: " + ", ".join([*shown, *more]))

    # -- tests

    def _test(self, grid: Grid) -> None:
        hypothesis, outcome = self.hypothesis, self.outcome
        self._check_groups(grid)
        outcome.rows += self._parts(grid)
        if hypothesis.by is not None:
            self._test_by(grid, hypothesis.by)
        else:
            outcome.tested, outcome.p, outcome.pairs = self._judged(grid, hypothesis.generalize)
            if outcome.pairs == 1 and hypothesis.interaction is None:
                self._advise(grid)
        reasons = [outcome.reason, *self._rests_on(grid)]
        outcome.reason = "; ".join(filter(None, reasons)) or None
        if hypothesis.interaction is None:
            outcome.holding = sum(self._holds(grid.part(models=[model])) for model in grid.models)

    def _judged(self, grid: Grid, level: Level) -> Judged:
        """Return the mean of a grid with its p; of several pairs of which each must hold, those of the least favourable one.

        Raises:
            Cannot: there is too little of that level.
        """
        if not self._is_of_every(grid):
            tested = self._at(grid, level)
            return Judged(tested, self._p(tested))
        return self._least_favourable([self._at(grid, level, pair) for pair in grid.pairs])

    def _least_favourable(self, pairs: Sequence[Tested]) -> Judged:
        """Return the pair that decides on a claim about every pair.

        One pair on the other side contradicts it: the surest of these, its p corrected for their choice (Bonferroni). A pair
        without a difference that matters does not support it. Else it holds if it holds for the pair with the largest p
        (intersection-union: no correction).
        """
        hypothesis, count = self.hypothesis, len(pairs)
        claim = (self._measure, hypothesis.alternative)
        same = [pair for pair in pairs if is_same(pair, *claim, hypothesis.margin)]
        against = [
            pair for pair in pairs if not (on_side(pair, *claim) or is_same(pair, *claim, hypothesis.margin))
        ]
        if against:
            surest = min(against, key=self._p)
            return Judged(surest, min(1.0, count * self._p(surest)), count)
        least = max(same or pairs, key=self._p)
        return Judged(least, self._p(least), count)

    def _is_of_every(self, grid: Grid) -> bool:
        return self.hypothesis.combine is Combine.EVERY and len(grid.pairs) > 1

    def _at(self, grid: Grid, level: Level, pair: int | None = None) -> Tested:
        """Return the mean at a level, of one pair if it is named; of an interaction the difference of the groups."""
        if self.hypothesis.interaction is None:
            return mean_at(grid, level, self._measure, pair)
        if pair is not None:
            grid = grid.having(pair)
        means = dict(zip(grid.subjects, grid.arrays(pair).values.mean(axis=0), strict=True))
        groups = self.hypothesis.interaction
        first, second = (
            np.array([means[name] for name in level if name in means]) for level in groups.levels
        )
        return interaction((first, second), groups.of)

    def _check_groups(self, grid: Grid) -> None:
        groups = self.hypothesis.interaction
        missing = (
            [name for level in groups.levels for name in level if name not in grid.subjects] if groups else []
        )
        if missing:
            raise Cannot(f"not measured for both sides: {', '.join(missing[:SHOWN_LEFT_OUT])}")

    def _rests_on(self, grid: Grid) -> Iterator[str]:
        """Yield what a reader cannot see in the figures: which groups they are of, or which pair."""
        groups = self.hypothesis.interaction
        if groups is not None:
            yield f"{', '.join(groups.levels[0])} against {', '.join(groups.levels[1])}"
        if self._is_of_every(grid):
            count = len(grid.pairs)
            yield f"must hold for each of {count} pairs; the figures are those of the least favourable one"

    def _p(self, tested: Tested) -> float:
        return claim_p(tested, self._measure, self.hypothesis.alternative, self.hypothesis.margin)

    def _holds(self, grid: Grid) -> bool:
        """Return whether the intervals over windows are on the side of the claim."""
        pairs = grid.pairs if self._is_of_every(grid) else [None]
        try:
            tested = [mean_at(grid, Level.WINDOWS, self._measure, pair) for pair in pairs]
        except Cannot:
            return False
        claim = (self._measure, self.hypothesis.alternative, self.hypothesis.margin)
        return all(holds_alone(one, *claim) for one in tested)

    def _advise(self, grid: Grid) -> None:
        """Add what would decide it, and what the interval rests on."""
        hypothesis, outcome = self.hypothesis, self.outcome
        level, cells = hypothesis.generalize, grid.arrays()
        outcome.needed = needed(cells, level, null(self._measure, hypothesis.alternative, hypothesis.margin))
        few = [
            f"few {kind}: {count}"
            for kind, count in (("models", len(grid.models)), ("languages", len(grid.subjects)))
            if kind in level and count < FEW_CLUSTERS
        ]
        outcome.notes += few
        if not (cells.values.any() or cells.variances.any()):
            unit = "item" if self._measure.is_of_tasks else "window"
            outcome.notes.append(f"both sides are alike in every {unit}")
        share = windows_share(cells, level)
        if share is not None and share < WINDOWS_DECIDE:
            outcome.notes.append("more windows would not change how sure this is")

    def _test_by(self, grid: Grid, by: By) -> None:
        """Judge each language, model or task, as a family of its own."""
        hypothesis, outcome = self.hypothesis, self.outcome
        names = grid.models if by is By.MODEL else grid.subjects
        judged: dict[str, Judged] = {}
        why: dict[str, str] = {}
        for name in names:
            part = grid.part(models=[name]) if by is By.MODEL else grid.part(subjects=[name])
            try:
                judged[name] = self._judged(part, hypothesis.generalize)
            except Cannot as cannot:
                why[name] = str(cannot)
        if not judged:
            raise Cannot(next(iter(why.values())))
        adjusted = dict(zip(judged, holm([of_name.p for of_name in judged.values()]), strict=True))
        outcome.rows = [row for row in outcome.rows if row.kind != by]
        verdicts = []
        for name in names:
            if name in why:
                row = Row(by, name, None, verdict=Verdict.UNTESTABLE, reason=why[name])
            else:
                tested, p, pairs = judged[name]
                verdict = judge(
                    tested,
                    self._measure,
                    hypothesis.alternative,
                    hypothesis.margin,
                    adjusted[name],
                    pairs * len(judged),
                )
                row = Row(by, name, tested, p, adjusted[name], verdict)
            outcome.rows.append(row)
            verdicts.append(row.verdict or Verdict.UNTESTABLE)
        outcome.verdict = _together(verdicts)
        counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
        outcome.reason = f"of {len(names)} {by}s: {', '.join(counts)}"
        if self._measure is not Measure.PPL_RATIO or len(grid.subjects) == 1:
            outcome.tested = self._maybe(grid, hypothesis.generalize)
        outcome.p_adjusted = max(adjusted.values())

    def _maybe(self, grid: Grid, level: Level) -> Tested | None:
        try:
            return self._judged(grid, level).tested
        except Cannot:
            return None

    # -- rows

    def _parts(self, grid: Grid) -> Iterator[Row]:
        """Yield what the hypothesis says at each level, of each model and language, and without each."""
        subject = By.TASK if self._measure.is_of_tasks else By.LANGUAGE
        mixes = self._measure is not Measure.PPL_RATIO or len(grid.subjects) == 1
        if mixes:
            levels = (Level.WINDOWS, Level.MODELS) if subject is By.TASK else tuple(Level)
            yield from (self._row("level", level, partial(self._plain, grid, level)) for level in levels)
            for model in grid.models if len(grid.models) > 1 else ():
                yield self._row(By.MODEL, model, partial(self._plain, grid.part(models=[model])))
        for name in grid.subjects if len(grid.subjects) > 1 else ():
            yield self._row(subject, name, partial(self._plain, grid.part(subjects=[name])))
        yield from self._pair_rows(grid)
        for names, axis in ((grid.models, "models"), (grid.subjects, "subjects")):
            for name in names if len(names) > 1 and mixes else ():
                rest = [other for other in names if other != name]
                part = grid.part(**{axis: rest})
                yield self._row("without", name, partial(self._judged, part, self.hypothesis.generalize))

    def _pair_rows(self, grid: Grid) -> Iterator[Row]:
        for number in grid.pairs if len(self.hypothesis.pairs) > 1 else ():
            of_pair = partial(self._of_pair, grid, number)
            yield self._row("pair", _name_of(self.hypothesis.pairs[number]), of_pair)

    def _of_pair(self, grid: Grid, number: int) -> Judged:
        tested = self._at(grid, self.hypothesis.generalize, number)
        return Judged(tested, self._p(tested))

    def _plain(self, grid: Grid, level: Level = Level.WINDOWS) -> Judged:
        """Return the mean of the differences at a level, also of a hypothesis about an interaction."""
        tested = mean_at(grid, level, self._measure)
        return Judged(tested, self._p(tested))

    def _row(self, kind: str, subject: str, judged: Callable[[], Judged]) -> Row:
        """Return a row with what a function returns, or with the reason why it cannot."""
        try:
            tested, p, _ = judged()
        except Cannot as cannot:
            return Row(kind, subject, None, reason=str(cannot))
        return Row(kind, subject, tested, p)

    # -- size

    def _compare_sizes(self) -> None:
        """Compare sizes, which are no sample: the sign decides."""
        hypothesis, outcome = self.hypothesis, self.outcome
        of_pairs: dict[int, list[float]] = defaultdict(list)
        means: list[float] = []
        why: dict[str, str] = {}
        for model, pairs in self._pairs():
            size_of = {
                trial.trial_id: trial.size_mib
                for trials in self._of_model[model].values()
                for trial in trials
            }
            trials = [trial for pair in pairs.values() for side in pair for trial in side.trials]
            missing = "size not known" if any(size_of[trial] is None for trial in trials) else None
            outcome.compared |= dict.fromkeys(trials, missing)
            if missing is not None:
                why[model] = missing
                continue
            differences = {
                number: mean(size_of[trial] or 0.0 for trial in left.trials)
                - mean(size_of[trial] or 0.0 for trial in right.trials)
                for number, (left, right) in pairs.items()
            }
            means.append(mean(differences.values()))
            for number, difference_of_pair in differences.items():
                of_pairs[number].append(difference_of_pair)
        if not means:
            raise Cannot("no size is known of both sides")
        self._note_left_out(why)
        outcome.models = len(means)
        outcome.reason = "sizes are compared, not tested"
        if hypothesis.combine is Combine.EVERY and len(of_pairs) > 1:
            judged = self._least_favourable([_certain(of_pairs[number]) for number in sorted(of_pairs)])
            outcome.reason += f"; must be so for each of {len(of_pairs)} pairs"
        else:
            judged = Judged(_certain(means), self._p(_certain(means)))
        outcome.tested = judged.tested
        # Without a margin equal sizes are no difference: nothing is left to chance.
        margin = hypothesis.margin or 0.0
        outcome.verdict = judge(judged.tested, self._measure, hypothesis.alternative, margin, judged.p)


_STATES = {
    "pending": "is not measured yet",
    "running": "is not measured yet",
    "stopped": "is not measured yet",
    "failed": "failed",
}


def _ids(trials: Iterable[Trial]) -> tuple[str, ...]:
    return tuple(trial.trial_id for trial in trials)


def _certain(values: Sequence[float]) -> Estimate:
    """Return the mean of figures that are no sample."""
    return Estimate(mean(values), 0.0, math.inf, len(values))


def _name_of(sides: Sides) -> str:
    return f"{' + '.join(sides.left)} against {' + '.join(sides.right)}"


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a claim that is made of every row: each must hold, and one against it is enough."""
    if Verdict.CONTRADICTED in verdicts:
        return Verdict.CONTRADICTED
    return verdicts[0] if len(set(verdicts)) == 1 else Verdict.UNDECIDED

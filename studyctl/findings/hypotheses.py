"""What a study's figures say of one hypothesis: differences of two sides in every cell, put together and tested."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from studyctl.findings.cells import Difference, Figures, Side, difference
from studyctl.findings.estimates import (
    FEW_CLUSTERS,
    Cannot,
    Cells,
    Estimate,
    Needed,
    estimate,
    interaction,
    needed,
    windows_share,
)
from studyctl.findings.verdicts import Tested, claim_p, holds_alone, holm, judge, on_side

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

    def adjust(self, p_adjusted: float, family: int) -> None:
        """Set the adjusted p, and the verdict by it."""
        hypothesis, self.p_adjusted = self.hypothesis, p_adjusted
        assert self.tested is not None
        assert self.p is not None
        measure = hypothesis.metric.measure
        self.verdict = judge(self.tested, measure, hypothesis.alternative, hypothesis.margin, p_adjusted)
        alone = judge(self.tested, measure, hypothesis.alternative, hypothesis.margin, self.p)
        if self.verdict is Verdict.UNDECIDED and alone is not Verdict.UNDECIDED:
            self.notes.append(
                f"alone it would be {alone}; of {family} hypotheses tested together one is by chance"
            )
        if self.verdict is not Verdict.UNDECIDED:
            self.needed = None


class Pair(NamedTuple):
    """Two sides in one model."""

    left: Side
    right: Side


class Cell(NamedTuple):
    """The differences of one model and language (or task)."""

    mean: Difference
    """Over the pairs."""
    pairs: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """All cells of a hypothesis; complete: every model has every language (or task)."""

    models: tuple[str, ...]
    subjects: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    def part(self, models: Iterable[str] | None = None, subjects: Iterable[str] | None = None) -> "Grid":
        """Return some models and some languages."""
        return Grid(
            self.models if models is None else tuple(models),
            self.subjects if subjects is None else tuple(subjects),
            self.cells,
        )

    def differences(self, pair: int | None = None) -> list[list[Difference]]:
        """Return the differences of every model and language; of one pair if it is named."""
        return [
            [
                cell.mean if pair is None else cell.pairs[pair]
                for cell in (self.cells[m, s] for s in self.subjects)
            ]
            for m in self.models
        ]

    def arrays(self, pair: int | None = None) -> Cells:
        """Return them as arrays."""
        rows = self.differences(pair)
        return Cells(
            np.array([[cell.value for cell in row] for row in rows]),
            np.array([[cell.variance for cell in row] for row in rows]),
            np.array([[cell.units for cell in row] for row in rows]),
        )


def mean_at(grid: Grid, level: Level, measure: Measure, pair: int | None = None) -> Tested:
    """Return the mean of a grid at a level.

    Raises:
        Cannot: there is too little of that level.
    """
    if not (grid.models and grid.subjects):
        raise Cannot("nothing is measured for both sides")
    if measure is Measure.ACCURACY and level is Level.WINDOWS:
        return _over_items([cell for row in grid.differences(pair) for cell in row])
    return estimate(grid.arrays(pair), level)


def _over_items(cells: Sequence[Difference]) -> Tested:
    """Return the mean of differences in tasks: a score interval for one, a normal one for the mean of several."""
    count = len(cells)
    if count == 1:
        cell = cells[0]
        return cell.flips or Estimate(cell.value, cell.variance, cell.units - 1, cell.units)
    variance = sum(cell.flips.variance_in_mean(count) if cell.flips else cell.variance for cell in cells)
    return Estimate(
        sum(cell.value for cell in cells) / count,
        variance / count**2,
        math.inf,
        sum(cell.units for cell in cells),
    )


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

    def _pairs(self) -> Iterator[tuple[str, list[Pair]]]:
        """Yield each model that has variants of both sides, with its pairs."""
        for model, variants in self._of_model.items():
            pairs = [
                Pair(
                    *(
                        Side(tuple(_ids(variants[name]) for name in side if name in variants))
                        for side in sides
                    )
                )
                for sides in ((pair.left, pair.right) for pair in self.hypothesis.pairs)
            ]
            pairs = [pair for pair in pairs if pair.left.variants and pair.right.variants]
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
            missing = self._missing(model, pairs)
            self.outcome.compared |= {
                trial: missing for pair in pairs for side in pair for trial in side.trials
            }
            if missing is not None:
                why[model] = missing
                continue
            sides = [side for pair in pairs for side in pair]
            for subject, cell in self._figures.cells(model, self.hypothesis.metric).items():
                try:
                    values = cell.sides(self._measure, sides)
                except Cannot as cannot:
                    why[f"{model}, {subject}"] = str(cannot)
                    continue
                one_each = [np.zeros(len(sides)) for _ in pairs]
                for place, coefficients in enumerate(one_each):
                    coefficients[2 * place], coefficients[2 * place + 1] = 1, -1
                cells[model, subject] = Cell(
                    difference(values, np.mean(one_each, axis=0)),
                    tuple(difference(values, coefficients) for coefficients in one_each),
                )
        if not cells:
            raise Cannot(self._nothing(why))
        grid = _largest(cells)
        left_out = [
            f"{model}, {subject}" for model, subject in cells
            if model not in grid.models or subject not in grid.subjects
        ]  # fmt: skip
        self._note_left_out({**why, **dict.fromkeys(left_out, "other models or languages lack it")})
        self.outcome.models, self.outcome.subjects = len(grid.models), len(grid.subjects)
        return grid

    def _missing(self, model: str, pairs: Sequence[Pair]) -> str | None:
        """Return why a model cannot be compared: a trial that failed, or has not run yet."""
        used = {trial for pair in pairs for side in pair for trial in side.trials}
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
        outcome.rows += self._parts(grid)
        if hypothesis.interaction is not None:
            self._test_interaction(grid)
        elif hypothesis.by is not None:
            self._test_by(grid, hypothesis.by)
        elif hypothesis.combine is Combine.EVERY and len(next(iter(grid.cells.values())).pairs) > 1:
            self._test_every(grid)
        else:
            outcome.tested = mean_at(grid, hypothesis.generalize, self._measure)
            outcome.p = self._p(outcome.tested)
            self._advise(grid)
        outcome.holding = sum(self._holds(grid.part(models=[model])) for model in grid.models)

    def _p(self, tested: Tested) -> float:
        return claim_p(tested, self._measure, self.hypothesis.alternative, self.hypothesis.margin)

    def _holds(self, grid: Grid) -> bool:
        try:
            tested = mean_at(grid, Level.WINDOWS, self._measure)
        except Cannot:
            return False
        return holds_alone(tested, self._measure, self.hypothesis.alternative, self.hypothesis.margin)

    def _advise(self, grid: Grid) -> None:
        """Add what would decide it, and what the interval rests on."""
        level, outcome = self.hypothesis.generalize, self.outcome
        cells = grid.arrays()
        outcome.needed = needed(cells, level)
        few = [
            f"few {kind}: {count}"
            for kind, count in (("models", len(grid.models)), ("languages", len(grid.subjects)))
            if kind in level and count < FEW_CLUSTERS
        ]
        outcome.notes += few
        share = windows_share(cells, level)
        if share is not None and share < WINDOWS_DECIDE:
            outcome.notes.append("more windows would not change how sure this is")

    def _test_by(self, grid: Grid, by: By) -> None:
        """Judge each language, model or task, as a family of its own."""
        outcome, level = self.outcome, self.hypothesis.generalize
        names = grid.models if by is By.MODEL else grid.subjects
        tested: dict[str, Tested] = {}
        for name in names:
            part = grid.part(models=[name]) if by is By.MODEL else grid.part(subjects=[name])
            try:
                tested[name] = mean_at(part, level, self._measure)
            except Cannot as cannot:
                outcome.rows.append(Row(by, name, None, verdict=Verdict.UNTESTABLE, reason=str(cannot)))
        if not tested:
            raise Cannot(str(outcome.rows[-1].reason))
        values = {name: self._p(of_name) for name, of_name in tested.items()}
        adjusted = holm(list(values.values()))
        outcome.rows = [row for row in outcome.rows if row.kind != by or row.subject not in tested]
        verdicts = []
        for (name, of_name), p_adjusted in zip(tested.items(), adjusted, strict=True):
            verdict = judge(
                of_name, self._measure, self.hypothesis.alternative, self.hypothesis.margin, p_adjusted
            )
            verdicts.append(verdict)
            outcome.rows.append(Row(by, name, of_name, values[name], p_adjusted, verdict))
        outcome.verdict = _together(verdicts, len(names))
        counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
        outcome.reason = f"of {len(names)} {by}s: {', '.join(counts)}"
        if self._measure is not Measure.PPL_RATIO or len(grid.subjects) == 1:
            outcome.tested = _maybe(grid, level, self._measure)
        outcome.p_adjusted = max(adjusted)

    def _test_every(self, grid: Grid) -> None:
        """Test the pair that is least in favour of the claim; it holds for every pair if it holds for that one."""
        outcome, hypothesis = self.outcome, self.hypothesis
        count = len(next(iter(grid.cells.values())).pairs)
        pairs = [mean_at(grid, hypothesis.generalize, self._measure, pair) for pair in range(count)]
        against = [pair for pair in pairs if not on_side(pair, self._measure, hypothesis.alternative)]
        if against:
            outcome.tested = min(against, key=self._p)
            outcome.p = min(1.0, count * self._p(outcome.tested))
        else:
            outcome.tested = max(pairs, key=self._p)
            outcome.p = self._p(outcome.tested)
        outcome.reason = (
            f"must hold for each of {count} pairs; the figures are those of the least favourable one"
        )

    def _test_interaction(self, grid: Grid) -> None:
        """Test whether the difference differs between two groups of languages or tasks."""
        groups = self.hypothesis.interaction
        assert groups is not None
        means = dict(zip(grid.subjects, grid.arrays().values.mean(axis=0), strict=True))
        missing = [name for level in groups.levels for name in level if name not in means]
        if missing:
            raise Cannot(f"not measured for both sides: {', '.join(missing[:SHOWN_LEFT_OUT])}")
        first, second = (np.array([means[name] for name in level]) for level in groups.levels)
        self.outcome.tested = interaction((first, second), groups.of)
        self.outcome.p = self._p(self.outcome.tested)
        self.outcome.reason = f"{', '.join(groups.levels[0])} against {', '.join(groups.levels[1])}"

    # -- rows

    def _parts(self, grid: Grid) -> Iterator[Row]:
        """Yield what the hypothesis says at each level, of each model and language, and without each."""
        subject = By.TASK if self._measure.is_of_tasks else By.LANGUAGE
        mixes = self._measure is not Measure.PPL_RATIO or len(grid.subjects) == 1
        if mixes:
            levels = (Level.WINDOWS, Level.MODELS) if subject is By.TASK else tuple(Level)
            yield from (self._row("level", level, grid, level) for level in levels)
            if len(grid.models) > 1:
                yield from (self._row(By.MODEL, model, grid.part(models=[model])) for model in grid.models)
        if len(grid.subjects) > 1:
            yield from (self._row(subject, name, grid.part(subjects=[name])) for name in grid.subjects)
        yield from self._pair_rows(grid)
        level = self.hypothesis.generalize
        for names, axis in ((grid.models, "models"), (grid.subjects, "subjects")):
            for name in names if len(names) > 1 and mixes else ():
                rest = [other for other in names if other != name]
                yield self._row("without", name, grid.part(**{axis: rest}), level)

    def _pair_rows(self, grid: Grid) -> Iterator[Row]:
        for number in range(len(self.hypothesis.pairs) if len(self.hypothesis.pairs) > 1 else 0):
            if all(number < len(cell.pairs) for cell in grid.cells.values()):
                name = _name_of(self.hypothesis.pairs[number])
                yield self._row("pair", name, grid, self.hypothesis.generalize, number)

    def _row(
        self, kind: str, subject: str, grid: Grid, level: Level = Level.WINDOWS, pair: int | None = None
    ) -> Row:
        try:
            tested = mean_at(grid, level, self._measure, pair)
        except Cannot as cannot:
            return Row(kind, subject, None, reason=str(cannot))
        return Row(kind, subject, tested, self._p(tested))

    # -- size

    def _compare_sizes(self) -> None:
        """Compare sizes, which are no sample: the sign decides."""
        sizes: list[float] = []
        for model, pairs in self._pairs():
            of_trial = {
                trial.trial_id: trial.size_mib
                for trials in self._of_model[model].values()
                for trial in trials
            }
            means = [[_mean(of_trial[trial] for trial in side.trials) for side in pair] for pair in pairs]
            missing = any(mean is None for pair in means for mean in pair)
            self.outcome.compared |= {
                trial: "size not known" if missing else None
                for pair in pairs for side in pair for trial in side.trials
            }  # fmt: skip
            if not missing:
                sizes.append(_mean((left or 0.0) - (right or 0.0) for left, right in means) or 0.0)
        if not sizes:
            raise Cannot("no size is known of both sides")
        tested = self.outcome.tested = Estimate(sum(sizes) / len(sizes), 0.0, math.inf, len(sizes))
        self.outcome.models = len(sizes)
        self.outcome.verdict = judge(
            tested, self._measure, self.hypothesis.alternative, self.hypothesis.margin, 0.0
        ) if tested.value else Verdict.UNDECIDED  # fmt: skip
        self.outcome.reason = "sizes are compared, not tested"


_STATES = {
    "pending": "is not measured yet",
    "running": "is not measured yet",
    "stopped": "is not measured yet",
    "failed": "failed",
}


def _ids(trials: Iterable[Trial]) -> tuple[str, ...]:
    return tuple(trial.trial_id for trial in trials)


def _mean(sizes: Iterable[float | None]) -> float | None:
    numbers = list(sizes)
    values = [number for number in numbers if number is not None]
    return sum(values) / len(values) if values and len(values) == len(numbers) else None


def _name_of(sides: Sides) -> str:
    return f"{' + '.join(sides.left)} against {' + '.join(sides.right)}"


def _maybe(grid: Grid, level: Level, measure: Measure) -> Tested | None:
    try:
        return mean_at(grid, level, measure)
    except Cannot:
        return None


def _together(verdicts: Sequence[Verdict], count: int) -> Verdict:
    """Return the verdict on a claim that is made of every row: each must hold, and one against it is enough."""
    if Verdict.CONTRADICTED in verdicts:
        return Verdict.CONTRADICTED
    if len(verdicts) == count and len(set(verdicts)) == 1:
        return verdicts[0]
    return Verdict.UNDECIDED


def _largest(cells: Mapping[tuple[str, str], Cell]) -> Grid:
    """Return the largest grid without a missing cell: its languages are those that some models have in common."""
    of_model: dict[str, frozenset[str]] = {}
    for model, subject in cells:
        of_model[model] = of_model.get(model, frozenset()) | {subject}
    shared = set(of_model.values())
    for one in list(shared):
        shared |= {one & other for other in shared}
    best: tuple[int, tuple[str, ...], frozenset[str]] = (0, (), frozenset())
    for subjects in shared:
        models = tuple(model for model, others in of_model.items() if subjects <= others)
        best = max(best, (len(models) * len(subjects), models, subjects), key=lambda grid: grid[0])
    order = dict.fromkeys(subject for _, subject in cells)
    return Grid(best[1], tuple(subject for subject in order if subject in best[2]), cells)

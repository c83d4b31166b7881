"""The results of one model, and the order in which the Compare screen shows its variants."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from studyctl.contract.steps import StepKind
from studyctl.files import StudyPaths
from studyctl.report.deployment import by_machine
from studyctl.store import results
from studyctl.store.comparison import Agreement, Disagreement, Rank
from studyctl.store.replaced import once_more_if_replaced
from studyctl.store.results import Deployed, LanguageResult, Standing, StepRow, TaskResult

MAIN = "main"
"""Stands for the main metric of a task."""
SORTS: dict[str, Callable[[Standing], float | None]] = {
    "plan order": lambda trial: 0.0,
    "size": lambda trial: trial.bits_per_weight if trial.mib is None else trial.mib,
    "ppl ratio": lambda trial: trial.ppl_ratio,
    "bits/byte": lambda trial: trial.bits_per_byte_change,
    "accuracy": lambda trial: None if trial.acc is None else -trial.acc,
}
"""Sort keys of variants, the smallest value first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The published results of one model."""

    models: tuple[str, ...] = ()
    """All models of the study, in the order of the plan."""
    model: str = ""
    trials: tuple[Standing, ...] = ()
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    perplexity: Mapping[tuple[str, str], LanguageResult] = field(default_factory=dict)
    """By trial and language."""
    scores: Mapping[tuple[str, str, str], TaskResult] = field(default_factory=dict)
    """By trial, task and metric; also by :data:`MAIN`."""
    ranks: tuple[Rank, ...] = ()
    disagreement: tuple[Disagreement, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    """Trials whose setting several backends compress, studyctl's first."""
    deployment: tuple[tuple[Deployed, ...], ...] = ()
    """Files that were timed, those of a machine and a number of threads together."""
    pareto: frozenset[tuple[str, str]] = frozenset()
    """Trial and measure of each point of the Pareto front of size and quality."""

    @property
    def compares(self) -> bool:
        """Whether there is anything to compare: a measured compressed variant."""
        measured = {trial for trial, *_ in (*self.perplexity, *self.scores)}
        return any(trial.variant != "dense" and trial.trial_id in measured for trial in self.trials)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which variants are shown, and in which order."""

    sort: str = next(iter(SORTS))
    grouped: bool = False
    pattern: str = ""
    marked: frozenset[str] = frozenset()
    """Trials; empty: all."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: a variant, a metric, or the heading of a group (no key)."""

    key: str
    label: str
    trial: Standing | None = None


@once_more_if_replaced
def read_comparison(paths: StudyPaths, model: str) -> Comparison:
    """Read the published results of a model; of the first one if there is no such model. Call it in a thread.

    Raises:
        StudyError: nothing is published, or by another version.
    """
    with results.open(paths) as reader:
        models = tuple(row.model for row in reader.progress())
        if not models:
            return Comparison()
        model = model if model in models else models[0]
        trials = reader.leaderboard(model)
        steps = reader.steps(trials[0].trial_id)
        scores = reader.tasks(model=model)
        return Comparison(
            models=models,
            model=model,
            trials=tuple(trials),
            languages=_subjects(steps, StepKind.PERPLEXITY),
            tasks=_subjects(steps, StepKind.TASK),
            perplexity={(row.trial_id, row.language): row for row in reader.perplexity(model=model)},
            scores={(row.trial_id, row.task, row.metric): row for row in scores}
            | {(row.trial_id, row.task, MAIN): row for row in scores if row.main},
            ranks=tuple(reader.ranks(model)),
            disagreement=tuple(reader.disagreement(model)),
            agreement=tuple(reader.agreement(model)),
            deployment=tuple(map(tuple, by_machine(reader.deployment(model)))),
            pareto=frozenset((row.trial_id, row.measure) for row in reader.pareto(model)),
        )


def _subjects(steps: list[StepRow], kind: StepKind) -> tuple[str, ...]:
    return tuple(step.subject for step in steps if step.kind == kind and step.subject is not None)


def arranged(comparison: Comparison, choice: Choice) -> tuple[Line, ...]:
    """Return the chosen trials in the chosen order, with headings if they are grouped."""
    names = labels(comparison)

    def place(trial: Standing) -> float:
        figure = SORTS[choice.sort](trial)
        return float("inf") if figure is None else figure

    lines = [
        Line(trial.trial_id, names[trial.trial_id], trial)
        for trial in sorted(comparison.trials, key=place)  # ties stay in the order of the plan
        if (not choice.marked or trial.trial_id in choice.marked)
        and _matches(names[trial.trial_id], choice.pattern)
    ]
    if not choice.grouped:
        return tuple(lines)
    grouped: list[Line] = []
    for method in dict.fromkeys(trial.method for trial in comparison.trials):
        members = [line for line in lines if line.trial is not None and line.trial.method == method]
        if members:
            grouped += [Line("", method), *members]
    return tuple(grouped)


def labels(comparison: Comparison) -> dict[str, str]:
    """Return a name for each trial: its variant, with the seed where a variant has several."""
    times = Counter(trial.variant for trial in comparison.trials)
    return {
        trial.trial_id: trial.variant if times[trial.variant] == 1 else f"{trial.variant} seed {trial.seed}"
        for trial in comparison.trials
    }


def _matches(name: str, pattern: str) -> bool:
    """Whether a name has all words of a pattern; ``*`` and ``?`` stand for anything."""
    return all(fnmatchcase(name.lower(), f"*{word}*") for word in pattern.lower().split())

"""What the Compare screen knows of one model, and in which order it shows its variants."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from studyctl.contract.steps import StepKind
from studyctl.files import StudyPaths
from studyctl.store import results
from studyctl.store.comparison import Agreement, Disagreement, Rank
from studyctl.store.results import LanguageResult, Standing, StepRow, TaskResult

MAIN = "main"
"""Stands for the main metric of a task, whatever that is."""
SORTS = ("plan order", "size", "ppl ratio", "accuracy")
"""What variants can be sorted by."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The published results of one model."""

    models: tuple[str, ...] = ()
    """All that the study has, in the order of the plan."""
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
    """Trials whose setting several backends compress, ours first."""
    pareto: frozenset[tuple[str, str]] = frozenset()
    """Trial and measure of what nothing beats in both size and quality."""

    @property
    def compares(self) -> bool:
        """Whether there is anything beside the dense model."""
        measured = {trial for trial, *_ in (*self.perplexity, *self.scores)}
        return any(one.variant != "dense" and one.trial_id in measured for one in self.trials)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is shown of the variants, and how."""

    sort: str = SORTS[0]
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


def read_comparison(paths: StudyPaths, model: str) -> Comparison:
    """Read what is published of a model; of the first one if there is no such model. For a thread.

    Raises:
        StudyError: nothing is published, or not by this version.
    """
    with results.open(paths) as found:
        models = tuple(one.model for one in found.progress())
        if not models:
            return Comparison()
        model = model if model in models else models[0]
        trials = found.leaderboard(model)
        steps = found.steps(trials[0].trial_id)
        languages, scores = found.perplexity(model=model), found.tasks(model=model)
        return Comparison(
            models=models,
            model=model,
            trials=tuple(trials),
            languages=_subjects(steps, StepKind.PERPLEXITY),
            tasks=_subjects(steps, StepKind.TASK),
            perplexity={(one.trial_id, one.language): one for one in languages},
            scores={(one.trial_id, one.task, one.metric): one for one in scores}
            | {(one.trial_id, one.task, MAIN): one for one in scores if one.main},
            ranks=tuple(found.ranks(model)),
            disagreement=tuple(found.disagreement(model)),
            agreement=tuple(found.agreement(model)),
            pareto=frozenset((one.trial_id, one.measure) for one in found.pareto(model)),
        )


def _subjects(steps: list[StepRow], kind: StepKind) -> tuple[str, ...]:
    return tuple(step.subject for step in steps if step.kind == kind and step.subject is not None)


def arranged(comparison: Comparison, choice: Choice) -> tuple[Line, ...]:
    """Return the chosen trials in the chosen order, with headings if they are grouped."""
    names = labels(comparison)
    lines = [
        Line(trial.trial_id, names[trial.trial_id], trial)
        for trial in _sorted(comparison.trials, choice.sort)
        if (not choice.marked or trial.trial_id in choice.marked)
        and _matches(names[trial.trial_id], choice.pattern)
    ]
    if not choice.grouped:
        return tuple(lines)
    methods = dict.fromkeys(trial.method for trial in comparison.trials)
    return tuple(line for method in methods for line in _group(method, lines))


def labels(comparison: Comparison) -> dict[str, str]:
    """Return how to call each trial: its variant, with the seed where a variant has several."""
    times = Counter(trial.variant for trial in comparison.trials)
    return {
        trial.trial_id: trial.variant if times[trial.variant] == 1 else f"{trial.variant} seed {trial.seed}"
        for trial in comparison.trials
    }


def _group(method: str, lines: list[Line]) -> Iterator[Line]:
    members = [line for line in lines if line.trial is not None and line.trial.method == method]
    if members:
        yield Line("", method)
        yield from members


def _sorted(trials: tuple[Standing, ...], sort: str) -> list[Standing]:
    """Sort the best or smallest first; what has no figure comes last; ties stay in the order of the plan."""
    missing = float("inf")

    def key(trial: Standing) -> float:
        if sort == "size":
            value = trial.bits_per_weight
        elif sort == "ppl ratio":
            value = trial.ppl_ratio
        else:
            value = None if trial.acc is None else -trial.acc
        return missing if value is None else value

    return list(trials) if sort == SORTS[0] else sorted(trials, key=key)


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a name has all words of a pattern; ``*`` and ``?`` stand for anything."""
    return all(fnmatchcase(name.lower(), f"*{word}*") for word in pattern.lower().split())

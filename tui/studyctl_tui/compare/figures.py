"""Tables of variants by languages and by tasks."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from rich.text import Text

from studyctl.report.effects import BRIEF_LEGEND, WHY_NONE, effect
from studyctl.report.layout import change, count, fixed, mib, ratio
from studyctl.store.results import LanguageResult, TaskResult
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.sheets import Cell, Figure, Measure, Scale, Sheet, shared_start

Result = TypeVar("Result", LanguageResult, TaskResult)
NOT_FINITE = "✗"
"""A perplexity that was measured and is not finite."""
_BITS = Scale((0.02, 0.1, 0.25, 0.5))
LANGUAGE_MEASURES = (
    Measure("bits/byte change", "bits_per_byte_change", change, _BITS, "bits_per_byte_change"),
    Measure("bits/char change", "bits_per_character_change", change, _BITS, "bits_per_character_change"),
    Measure("ppl ratio", "ppl_ratio", ratio, Scale((1.02, 1.1, 1.25, 2.0)), "ppl_ratio"),
    Measure("perplexity", "perplexity", ratio, of_dense=True),
    Measure("KL", "kl_nats", ratio, Scale((0.02, 0.1, 0.3, 1.0)), "kl_nats"),
    Measure("KL/byte", "kl_nats_per_byte", ratio, Scale((0.005, 0.03, 0.1, 0.3)), "kl_nats_per_byte"),
    Measure("top-1", "top1", lambda value: fixed(value, 3), Scale((0.95, 0.9, 0.8, 0.6)), "top1"),
)
_LOSS = Scale((-0.01, -0.03, -0.06, -0.12))


def task_measures(comparison: Comparison) -> tuple[Measure, ...]:
    """Return the measures of tasks: of their main metrics first, then the change of every other metric."""
    others = dict.fromkeys(score.metric for score in comparison.scores.values() if not score.main)
    return (
        Measure("accuracy change", "change", change, _LOSS, "acc_change"),
        Measure("accuracy", "value", lambda value: fixed(value, 3), overall="acc", of_dense=True),
        Measure("flips", "flips", count, overall="flips"),
        *(
            Measure(
                f"{name} change", "change", change, _LOSS if name.startswith("acc") else None, metric=name
            )
            for name in others
        ),
    )


class FigureSheet(Sheet, Generic[Result]):
    """Variants by languages or tasks; the figure of the whole trial comes last."""

    MARKS = ""
    """The marks behind a figure, and what they mean."""

    def __init__(
        self,
        measure: Measure,
        results: Mapping[tuple[str, str], Result],
        subjects: Sequence[str],
        lines: Iterable[Line],
    ) -> None:
        self.measure = measure
        self._of: Mapping[tuple[str, str], Result] = results
        self._overall = "sum" if measure.figure == "flips" else "mean"
        super().__init__((*subjects, *((self._overall,) if measure.overall else ())), lines)
        self.title = measure.name
        if measure.scale is not None:
            self.legend = f"{self.MARKS}  {BRIEF_LEGEND}  {measure.scale.legend(measure.show)}"

    def has_figures(self, line: Line) -> bool:
        """Whether a line has results; the dense model is left out where the others are compared with it."""
        if line.trial is not None and line.trial.variant == "dense" and not self.measure.of_dense:
            return False
        return any((line.key, column) in self._of for column in self.columns)

    def cell(self, line: Line, column: str) -> Cell:
        """Return a figure with its step and mark."""
        if column == self._overall:
            return self.measure.compared(line.trial, self.measure.overall)
        result = self._of.get((line.key, column))
        if isinstance(result, LanguageResult) and result.perplexity is None:
            return Cell(NOT_FINITE, 4 if self.measure.scale else None)
        return self.measure.compared(
            result, self.measure.figure, " " if result is None else self.mark(line, result)
        )

    def says(self, line: Line, column: str | None) -> str:
        """Return all figures of a result, or those of the whole trial."""
        result = self._of.get((line.key, column or ""))
        return _trial_text(line) if result is None else f"{line.label} · {column}: {self.sentence(result)}"

    @abstractmethod
    def mark(self, line: Line, result: Result) -> str:
        """Return the mark of the figure of a result, or a blank."""

    @abstractmethod
    def sentence(self, result: Result) -> str:
        """Return all figures of a result."""


class LanguageSheet(FigureSheet[LanguageResult]):
    """Variants by languages."""

    MARKS = "! worst per byte"
    least_width = 9

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        super().__init__(measure, comparison.perplexity, comparison.languages, lines)
        unknown = {row.language for row in comparison.perplexity.values() if row.dense_knows is False}
        self.headers = {language: f"{language}?" for language in unknown}
        if unknown:
            self.legend = f"? dense does not know it  {self.legend}"

    def mark(self, line: Line, result: LanguageResult) -> str:
        """Return the mark of the line's worst language: per byte, as tokenizers distort figures per token."""
        trial = line.trial
        is_worst = (
            trial is not None and trial.worst_language == result.language and (trial.languages or 0) > 1
        )
        return "!" if is_worst and self.measure.scale is not None else " "

    def sentence(self, result: LanguageResult) -> str:
        """Return the perplexity and, where they are measured, KL and top-1."""
        dense = ratio(result.dense_perplexity)
        if result.perplexity is None:
            return f"perplexity is not finite; dense {dense}"
        interval = _interval(result.ppl_ratio_low, result.ppl_ratio_high, ratio)
        text = (
            f"perplexity {ratio(result.perplexity)}, dense {dense}, ratio {ratio(result.ppl_ratio)}{interval}"
        )
        if result.bits_per_byte is not None:
            bits = _interval(result.bits_per_byte_change_low, result.bits_per_byte_change_high, change)
            text += f"; {fixed(result.bits_per_byte, 3)} bits/byte, change {change(result.bits_per_byte_change)}{bits}"
        if result.kl_nats is not None:
            text += f"; KL {ratio(result.kl_nats)} nats{_interval(result.kl_nats_low, result.kl_nats_high, ratio)}"
            text += f", top-1 {fixed(result.top1, 3)}"
        text += _why_no_interval(result, "ppl_ratio")
        return text if result.dense_knows is not False else f"{text}; dense does not know this language"


class TaskSheet(FigureSheet[TaskResult]):
    """Variants by tasks."""

    MARKS = "* p < 0.05  ~ at chance"
    least_width = 9

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        results = {
            (trial, task): result
            for (trial, task, metric), result in comparison.scores.items()
            if metric == measure.metric
        }
        measured = {task for _, task in results}
        tasks = [task for task in comparison.tasks if task in measured]
        super().__init__(measure, results, tasks, lines)
        shared = shared_start(tasks)
        labels = {result.task: result.label for result in results.values()}
        self.headers = {task: labels[task].removeprefix(shared) for task in tasks}

    def mark(self, line: Line, result: TaskResult) -> str:
        """Return the mark of a task at chance, or of a change that is unlikely to be chance."""
        if self.measure.figure == "flips":
            return " "
        if result.above_chance is False:
            return "~"
        return "*" if self.measure.figure == "change" and result.significant else " "

    def sentence(self, result: TaskResult) -> str:
        """Return the metric and, where it counts items, how many changed."""
        text = f"{result.metric} {fixed(result.value, 3)}, dense {fixed(result.dense_value, 3)}, change {change(result.change)}"
        text += _interval(result.change_low, result.change_high, change)
        text += _why_no_interval(result, "change")
        if result.mcnemar_p is not None:
            text += f"; {result.right_to_wrong} turned wrong and {result.wrong_to_right} right of {result.items}, "
            text += f"p = {result.mcnemar_p:.2g}"
        if result.above_chance is False:
            text += f"; at chance: guessing scores {fixed(result.chance, 3)}"
        return text


def _interval(low: Figure, high: Figure, show: Callable[[Figure], Text]) -> str:
    """Return the 95 % interval of a figure; empty where it is not known."""
    return "" if low is None or high is None else f" ({show(low)} to {show(high)})"


def _why_no_interval(result: LanguageResult | TaskResult, name: str) -> str:
    one = effect(result, name)
    is_missing = one.value is not None and not one.has_interval and result.variant != "dense"
    return f"; no interval: {WHY_NONE}" if is_missing else ""


def _trial_text(line: Line) -> str:
    trial = line.trial
    if trial is None:
        return line.label
    parts = [f"{fixed(trial.bits_per_weight, 2)} bits a weight"]
    if trial.mib is not None:
        parts.append(
            f"{mib(trial.mib)} MiB" + (" as a GGUF file" if trial.file_mib is not None else " as stored")
        )
    if trial.ppl_ratio is not None:
        interval = _interval(trial.ppl_ratio_low, trial.ppl_ratio_high, ratio)
        parts.append(f"ppl ratio {ratio(trial.ppl_ratio)}{interval} over {trial.languages} languages")
    if trial.worst_bits_per_byte_change is not None and trial.variant != "dense":
        interval = _interval(trial.bits_per_byte_change_low, trial.bits_per_byte_change_high, change)
        worst = f"worst {trial.worst_language} {change(trial.worst_bits_per_byte_change)}"
        parts.append(f"bits/byte {change(trial.bits_per_byte_change)}{interval}, {worst}")
    if trial.acc is not None:
        interval = _interval(trial.acc_change_low, trial.acc_change_high, change)
        parts.append(
            f"acc {fixed(trial.acc, 3)}, change {change(trial.acc_change)}{interval} of {trial.tasks} tasks"
        )
    if trial.tasks_above_chance is not None and trial.tasks_above_chance != trial.tasks:
        interval = _interval(trial.acc_change_above_chance_low, trial.acc_change_above_chance_high, change)
        above = f"acc {fixed(trial.acc_above_chance, 3)}, change {change(trial.acc_change_above_chance)}{interval}"
        parts.append(f"{above} of the {trial.tasks_above_chance} above chance")
    return f"{line.label}: {', '.join(parts)}"

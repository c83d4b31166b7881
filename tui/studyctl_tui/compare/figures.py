"""Tables of variants by languages and by tasks."""

from collections.abc import Callable, Iterable

from rich.text import Text

from studyctl.report.layout import change, count, fixed, ratio
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.scale import Scale
from studyctl_tui.compare.sheets import Cell, Figure, Measure, Sheet, shared_start

NOT_FINITE = "✗"
"""A perplexity that was measured and is not a number."""


def _whole(value: Figure) -> Text:
    return count(None if value is None else int(value))


LANGUAGE_MEASURES = (
    Measure("ppl ratio", "ppl_ratio", "ppl_ratio", ratio, Scale((1.02, 1.1, 1.25, 2.0))),
    Measure("perplexity", "perplexity", None, ratio, of_dense=True),
    Measure(
        "bits/byte change",
        "bits_per_byte_change",
        "bits_per_byte_change",
        change,
        Scale((0.02, 0.1, 0.25, 0.5)),
    ),
    Measure("KL", "kl_nats", "kl_nats", ratio, Scale((0.02, 0.1, 0.3, 1.0))),
    Measure("top-1", "top1", "top1", lambda value: fixed(value, 3), Scale((0.95, 0.9, 0.8, 0.6))),
)
_LOSS = Scale((-0.01, -0.03, -0.06, -0.12))


def task_measures(comparison: Comparison) -> tuple[Measure, ...]:
    """Return what tasks can be compared by: their main metrics first, then the change of every other metric."""
    others = dict.fromkeys(one.metric for one in comparison.scores.values() if not one.main)
    return (
        Measure("accuracy change", "change", "acc_change", change, _LOSS),
        Measure("accuracy", "value", "acc", lambda value: fixed(value, 3), of_dense=True),
        Measure("flips", "flips", "flips", _whole),
        *(
            Measure(
                f"{metric} change",
                "change",
                None,
                change,
                _LOSS if metric.startswith("acc") else None,
                metric=metric,
            )
            for metric in others
        ),
    )


class LanguageSheet(Sheet):
    """Variants by languages."""

    MEAN = "mean"

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        self._of, self._measure = comparison.perplexity, measure
        means = (self.MEAN,) if measure.overall else ()
        super().__init__((*comparison.languages, *means), lines)
        self.title = measure.name
        scale = measure.scale
        self.legend = f"{scale.legend(measure.show)}  ! worst" if scale else ""

    def has_figures(self, line: Line) -> bool:
        """Leave the dense model out where it is what others are compared with."""
        if line.trial is not None and line.trial.variant == "dense" and not self._measure.of_dense:
            return False
        return any((line.key, language) in self._of for language in self.columns)

    def cell(self, line: Line, column: str) -> Cell:
        """Return a figure with its step; the worst language of the line has a mark."""
        if column == self.MEAN:
            value = self._measure.mean(line.trial)
            return Cell(self._measure.show(value).plain, self._measure.step(value))
        result = self._of.get((line.key, column))
        if result is not None and result.perplexity is None:
            return Cell(NOT_FINITE, 4 if self._measure.scale else None)
        value = self._measure.of(result)
        worst = "!" if column == self._worst(line) else " "
        return Cell(self._measure.show(value).plain, self._measure.step(value), worst)

    def _worst(self, line: Line) -> str | None:
        scale = self._measure.scale
        found = {
            language: value
            for language in self.columns
            if (value := self._measure.of(self._of.get((line.key, language)))) is not None
        }
        if scale is None or len(found) < 2:
            return None
        return (min if scale.low_is_bad else max)(found, key=lambda language: found[language])

    def says(self, line: Line, column: str | None) -> str:
        """Return all figures of a language, or those of the whole trial."""
        result = self._of.get((line.key, column or ""))
        if result is None:
            return _standing_says(line)
        if result.perplexity is None:
            return (
                f"{line.label} · {column}: perplexity is not finite; dense {_plain(result.dense_perplexity)}"
            )
        parts = [
            f"perplexity {_plain(result.perplexity)}, dense {_plain(result.dense_perplexity)}, ratio {_plain(result.ppl_ratio)}"
            + _interval(result.ppl_ratio_low, result.ppl_ratio_high, ratio)
        ]
        if result.kl_nats is not None:
            parts.append(f"KL {_plain(result.kl_nats)} nats, top-1 {fixed(result.top1, 3).plain}")
        return f"{line.label} · {column}: {'; '.join(parts)}"


def _plain(value: Figure) -> str:
    return ratio(value).plain


def _interval(low: Figure, high: Figure, show: Callable[[Figure], Text]) -> str:
    """Return where a figure is in 95 of 100 drawn samples, or nothing where that is not known."""
    return "" if low is None or high is None else f" ({show(low).plain} to {show(high).plain})"


def _standing_says(line: Line) -> str:
    trial = line.trial
    if trial is None:
        return line.label
    parts = [f"{fixed(trial.bits_per_weight, 2).plain} bits a weight"]
    if trial.ppl_ratio is not None:
        interval = _interval(trial.ppl_ratio_low, trial.ppl_ratio_high, ratio)
        parts.append(f"ppl ratio {_plain(trial.ppl_ratio)}{interval} over {trial.languages} languages")
    if trial.worst_ppl_ratio is not None and trial.variant != "dense":
        parts.append(f"worst {trial.worst_language} {_plain(trial.worst_ppl_ratio)}")
    if trial.acc is not None:
        interval = _interval(trial.acc_change_low, trial.acc_change_high, change)
        parts.append(f"acc {fixed(trial.acc, 3).plain}, change {change(trial.acc_change).plain}{interval}")
    return f"{line.label}: {', '.join(parts)}"


class TaskSheet(Sheet):
    """Variants by tasks."""

    MEAN = "mean"
    least_width = 9

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        self._of, self._measure = comparison.scores, measure
        tasks = [
            task
            for task in comparison.tasks
            if any((trial.trial_id, task, measure.metric) in self._of for trial in comparison.trials)
        ]
        self._total = "sum" if measure.figure == "flips" else self.MEAN
        super().__init__((*tasks, *((self._total,) if measure.overall else ())), lines)
        self.title = measure.name
        scale = measure.scale
        self.legend = f"{scale.legend(measure.show)}  * p < 0.05" if scale else ""
        shared = shared_start(tasks)
        self._short = {task: task.removeprefix(shared) for task in tasks}

    def header(self, column: str) -> str:
        """Leave out what all names begin with."""
        return self._short.get(column, column)

    def has_figures(self, line: Line) -> bool:
        """Leave the dense model out where it is what others are compared with."""
        if line.trial is not None and line.trial.variant == "dense" and not self._measure.of_dense:
            return False
        return any((line.key, task, self._measure.metric) in self._of for task in self.columns)

    def cell(self, line: Line, column: str) -> Cell:
        """Return a figure; a change that is hardly chance has a mark."""
        if column == self._total:
            value = self._measure.mean(line.trial)
            return Cell(self._measure.show(value).plain, self._measure.step(value))
        result = self._of.get((line.key, column, self._measure.metric))
        value = self._measure.of(result)
        mark = "*" if result is not None and self._measure.figure == "change" and result.significant else " "
        return Cell(self._measure.show(value).plain, self._measure.step(value), mark)

    def says(self, line: Line, column: str | None) -> str:
        """Return all figures of a task, or those of the whole trial."""
        result = self._of.get((line.key, column or "", self._measure.metric))
        if result is None:
            return _standing_says(line)
        value, dense = fixed(result.value, 3).plain, fixed(result.dense_value, 3).plain
        parts = [f"{result.metric} {value}, dense {dense}, change {change(result.change).plain}"]
        parts[0] += _interval(result.change_low, result.change_high, change)
        if result.mcnemar_p is not None:
            parts.append(
                f"{result.right_to_wrong} turned wrong and {result.wrong_to_right} right of {result.items}, "
                f"p = {result.mcnemar_p:.2g}"
            )
        return f"{line.label} · {column}: {'; '.join(parts)}"

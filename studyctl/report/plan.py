"""What ``studyctl plan`` prints."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from studyctl.contract.hypotheses import PlannedHypothesis
from studyctl.plan.compare import Comparison
from studyctl.plan.estimate import FACTOR
from studyctl.plan.planner import StudyPlan
from studyctl.plan.preview import Preview
from studyctl.printable import on_one_line
from studyctl.report.problems import as_json, draw
from studyctl.sources.own_tasks import read_items
from studyctl.units import bytes_text, count_text, duration_text

SHOWN_VARIANTS = 4
"""Variants of a hypothesis that are named."""


def draw_plan(shown: Preview, out: Console, err: Console) -> None:
    """Print the trials: what is stored, what would run and why; then the estimate. Problems go to ``err``."""
    plan, comparison = shown.plan, shown.comparison
    if not shown.errors:
        spec = plan.document.spec
        variants = len({variant.name for variant in plan.variants})
        seeds = f" × {len(spec.study.seeds)} seeds" if len(spec.study.seeds) > 1 else ""
        factors = f"{count_text(len(spec.models), 'model')} × {count_text(variants, 'variant')}{seeds}"
        trials, steps = count_text(len(plan.trials), "trial"), count_text(comparison.steps, "step")
        out.print(Text(f"{spec.study.name}: {factors} = {trials}, {steps}"))
        out.print(_grid(plan, comparison, out.width))
        for note in plan.notes:
            out.print(Text(f"note: {note}"), soft_wrap=True)
        print_code(plan, out)
        for line in (*_own_fields(plan), *_first_items(plan)):
            out.print(Text(line), soft_wrap=True)
        for hypothesis in plan.hypotheses:
            out.print(Text(f"hypothesis {hypothesis.name}: {_compared(hypothesis)}"), soft_wrap=True)
        out.print(_cost(shown), soft_wrap=True)
        if shown.timing.files:
            timing = f"{shown.timing.files} files are timed after that, alone on this machine"
            out.print(f"{timing}: {_range(shown.timing.seconds)}", soft_wrap=True)
        if shown.kept_bytes:
            most = spec.execution.keep_trial_weights
            kept = f"{bytes_text(shown.kept_bytes)} of weights are kept for steps that are added"
            out.print(f"{kept} (keep_trial_weights = {bytes_text(most)})", soft_wrap=True)
    if shown.problems:
        draw(shown.problems, err)


def _own_fields(plan: StudyPlan) -> Iterator[str]:
    """Yield the texts that are in another field than the rest of their source."""
    for text in plan.texts.values():
        source = plan.document.spec.text.get(text.name)
        if source is not None and text.field != source.field:
            files = ", ".join(file.path.name for file in text.files)
            yield on_one_line(f"{text}: field {text.field} of {files}")


def _first_items(plan: StudyPlan) -> Iterator[str]:
    """Yield the first item of each of the user's own tasks, as it is understood."""
    tasks = plan.document.spec.evaluation.tasks
    if tasks is None:
        return
    for name, task in tasks.own.items():
        if name in plan.tasks:
            language = f" ({task.language})" if task.language is not None else ""
            first, *others = read_items(task, plan.document.base)
            items = count_text(1 + len(others), "item")
            if 0 < tasks.limit <= len(others):
                items = f"the first {tasks.limit:,} of {items}"
            yield f"task {name}{language}, {items}: {on_one_line(str(first))}"


def _compared(hypothesis: PlannedHypothesis) -> str:
    """Return what a hypothesis compares."""
    metrics = " and ".join(map(str, hypothesis.metrics))
    if hypothesis.is_of_ranks:
        return f"the order of all variants by {metrics}"
    pairs = [f"{_names(pair.left)} against {_names(pair.right)}" for pair in hypothesis.pairs]
    return f"{metrics}, {'; '.join(pairs)}"


def _names(variants: Sequence[str]) -> str:
    more = [f"{len(variants) - SHOWN_VARIANTS} more"] if len(variants) > SHOWN_VARIANTS else []
    return " + ".join([*variants[:SHOWN_VARIANTS], *more])


def print_code(plan: StudyPlan, console: Console) -> None:
    """Print what runs code that the spec names, one line each."""
    for line in plan.code:
        console.print(Text(f"runs code: {on_one_line(line)}"), soft_wrap=True)


def _grid(plan: StudyPlan, comparison: Comparison, width: int) -> Table:
    trials = Counter(trial.variant.name for trial in plan.trials)
    unavailable = Counter(trial.variant.name for trial in comparison.unavailable)
    steps: dict[str, int] = defaultdict(int)
    to_run: dict[str, int] = defaultdict(int)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for todo in comparison.todo:
        name = todo.trial.variant.name
        to_run[name] += 1
        steps[name] += len(todo.steps)
        reasons[name][f"{todo.reason}, compress again" if todo.again else todo.reason] += 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    longest = max(map(len, trials), default=0)
    table.add_column("variant", overflow="fold", min_width=min(longest, width // 2))
    for column in ("stored", "to run", "steps"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("because", overflow="fold", min_width=8)
    for name, count in trials.items():
        because = ", ".join(reasons[name]) or ("not available here" if unavailable[name] else "")
        stored = count - to_run[name] - unavailable[name]
        table.add_row(Text(name), str(stored), str(to_run[name]), str(steps[name]), Text(because))
    return table


def _cost(shown: Preview) -> str:
    needed, devices = shown.estimate, Counter(device.split(":")[0] for device in shown.plan.devices)
    if not shown.comparison.todo:
        what = "nothing to compute" if shown.timing.files else "nothing to do"
        return f"{what}: everything that the spec asks for is stored"
    on = ", ".join(f"{count} × {kind}" for kind, count in devices.items())
    if needed.measured:
        parts = [f"{duration_text(needed.seconds)} on {on} (from this study's own trials)"]
    else:
        parts = [f"{_range(needed.seconds)} on {on} (no trial of this study measured yet)"]
    if again := sum(todo.again for todo in shown.comparison.todo):
        parts.append(
            f"{duration_text(needed.again_seconds)} of it to compress again {count_text(again, 'trial')}, whose weights were not kept"
        )
    memory = f"{bytes_text(needed.host_bytes)} host"
    if needed.device_bytes:
        memory = f"{bytes_text(needed.device_bytes)} device, {memory}"
    return "estimate: " + " · ".join([*parts, f"peak {memory}", f"{bytes_text(needed.disk_bytes)} disk"])


def _range(seconds: float) -> str:
    """Return an estimate from sizes alone."""
    return f"{duration_text(seconds / FACTOR)} to {duration_text(seconds * FACTOR)}"


def plan_as_json(shown: Preview) -> dict[str, Any]:
    """Return the plan for scripts: every trial with the steps that would run, why, and the estimate."""
    todo = {entry.trial.id: entry for entry in shown.comparison.todo}
    unavailable = {trial.id for trial in shown.comparison.unavailable}
    return {
        "study": shown.plan.document.spec.study.name,
        "trials": [
            {
                "trial": trial.id,
                "model": trial.model.spec.id,
                "variant": trial.variant.name,
                "seed": trial.seed,
                "available": trial.id not in unavailable,
                "stages": [str(step) for step in trial.steps],
                "to_run": [str(step) for step in todo[trial.id].steps] if trial.id in todo else [],
                "because": str(todo[trial.id].reason) if trial.id in todo else None,
            }
            for trial in shown.plan.trials
        ],
        "hypotheses": [
            {
                "name": hypothesis.name,
                "metrics": [str(metric) for metric in hypothesis.metrics],
                "pairs": [asdict(pair) for pair in hypothesis.pairs],
            }
            for hypothesis in shown.plan.hypotheses
        ],
        "estimate": asdict(shown.estimate),
        "kept_bytes": shown.kept_bytes,
        "timing": asdict(shown.timing),
        "notes": shown.plan.notes,
        "code": shown.plan.code,
        "problems": as_json(shown.problems),
    }

"""A plan held against the store: what would run, why, and what that takes on this machine."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from studyctl.contract.plan import read_plan
from studyctl.errors import Problem
from studyctl.files import StudyPaths, runs_folder
from studyctl.journal.index import read_stored
from studyctl.plan.compare import Comparison, compare
from studyctl.plan.estimate import Estimate, estimate
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.spec.loading import Document
from studyctl.units import bytes_text


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan held against the store, with what it takes."""

    plan: StudyPlan
    comparison: Comparison
    estimate: Estimate
    problems: list[Problem]
    """Of the plan, and of this machine's room."""

    @property
    def errors(self) -> list[Problem]:
        """Return what must be mended before anything runs."""
        return [problem for problem in self.problems if problem.severity == "error"]


def preview(document: Document, *, strict: bool = False) -> Preview:
    """Plan a spec and hold it against what is stored.

    Args:
        document: the spec.
        strict: whether too little disk or memory is an error; else a warning.

    Raises:
        StudyError: a journal of the study is damaged in the middle.
    """
    plan = make_plan(document)
    paths = StudyPaths(runs_folder() / document.spec.study.name)
    stored = read_stored(paths)
    comparison = compare(plan, stored, read_plan(paths))
    needed = estimate(plan, comparison, stored)
    room = _room(paths.root, needed, "error" if strict else "warning")
    return Preview(plan, comparison, needed, [*plan.problems, *room])


def _room(folder: Path, needed: Estimate, severity: str) -> list[Problem]:
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free, memory = shutil.disk_usage(existing).free, psutil.virtual_memory().available
    problems = []
    if needed.disk_bytes > free:
        what = f"not enough disk for the estimate: {bytes_text(needed.disk_bytes)} needed, {bytes_text(free)} free"
        problems.append(Problem(what, severity=severity, hint=f"make room on the disk of {existing}"))
    if needed.host_bytes > memory:
        what = f"not enough memory for the estimate: {bytes_text(needed.host_bytes)} needed, {bytes_text(memory)} free"
        hint = "fewer calibration samples, or fewer devices at a time"
        problems.append(Problem(what, severity=severity, hint=hint))
    return problems

"""A plan compared with what is stored: what would run, why, and what that takes on this machine."""

import shutil
from dataclasses import dataclass, replace

import psutil

from studyctl.contract.plan import read_plan
from studyctl.errors import Problem
from studyctl.files import cache_folder, cache_trouble
from studyctl.journal.index import read_stored
from studyctl.plan.compare import Comparison, compare
from studyctl.plan.devices import Place
from studyctl.plan.estimate import Estimate, estimate
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import other_spec, study_of
from studyctl.plan.timing import Timing, expected_timing, to_time
from studyctl.spec.loading import Document
from studyctl.units import bytes_text, duration_text

_LESS_MEMORY = "fewer calibration samples, or fewer devices at a time"


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan compared with what is stored, and an estimate of what runs."""

    plan: StudyPlan
    comparison: Comparison
    estimate: Estimate
    kept_bytes: int
    """Size of the weights of finished trials that the study keeps."""
    timing: Timing
    problems: list[Problem]
    """Those of the plan, and too little disk or memory."""

    @property
    def errors(self) -> list[Problem]:
        """Return what must be corrected before anything runs."""
        return [problem for problem in self.problems if problem.severity == "error"]


def preview(document: Document, place: Place | None = None, *, strict: bool = False) -> Preview:
    """Plan a spec and compare it with what is stored.

    Args:
        document: the spec.
        place: where its workers run; None: here.
        strict: whether too little disk or memory is an error; else a warning.

    Raises:
        StudyError: a journal of the study is damaged in the middle.
    """
    plan = make_plan(document, place)
    paths = study_of(document)
    stored = read_stored(paths)
    saved = read_plan(paths)
    comparison = compare(plan, stored, saved, paths.all_weights())
    needed = estimate(plan, comparison, stored)
    severity = "error" if strict else "warning"
    root = paths.root.resolve()
    disk = next(folder for folder in (root, *root.parents) if folder.exists())
    rooms = [("disk", needed.disk_bytes, shutil.disk_usage(disk).free, f"make room on the disk of {disk}")]
    if place is None:
        rooms.append(("memory", needed.host_bytes, psutil.virtual_memory().available, _LESS_MEMORY))
    else:
        rooms += _rooms_of_worker(place, needed)
    problems = [
        Problem(
            f"not enough {room} for the estimate: {bytes_text(needs)} needed, {bytes_text(free)} free",
            severity=severity,
            hint=hint,
        )
        for room, needs, free, hint in rooms
        if needs > free
    ]
    limit, longest = plan.place.seconds, needed.longest_seconds
    if limit is not None and longest is not None and longest > limit:
        what = f"a trial takes about {duration_text(longest)}, and a worker has {duration_text(limit)}"
        hint = (
            "it goes on in the next worker, step by step; a longer `time` in the profile starts fewer of them"
        )
        problems.append(Problem(what, severity="warning", hint=hint))
    if trouble := cache_trouble():
        what = f"the cache {cache_folder()} cannot be written ({trouble}): what it would keep is made again for every study"
        problems.append(
            Problem(what, severity="warning", hint="name a folder that can be written by STUDYCTL_CACHE")
        )
    if (other := other_spec(document, paths, saved)) is not None:
        problems.append(replace(other, severity="warning"))
    kept = sum(path.stat().st_size for path in paths.kept_weights("").parent.glob("*.safetensors"))
    timing = expected_timing(plan, comparison, to_time(paths, plan, stored))
    return Preview(plan, comparison, needed, kept, timing, [*plan.problems, *problems])


def _rooms_of_worker(place: Place, needed: Estimate) -> list[tuple[str, int, int, str]]:
    """Return what a worker of a profile needs and has, as far as the profile says that."""
    has = [
        ("memory of a worker", needed.worker_bytes, place.host_bytes, "more `memory` in the profile"),
        ("memory of a GPU", needed.device_bytes, place.device_bytes, "a larger GPU, or a smaller model"),
    ]
    return [(room, needs, size, hint) for room, needs, size, hint in has if size is not None]

"""``studyctl run``: in the foreground, detached, or handed to a runner that is already running."""

import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import join, quote

from rich.console import Console

from studyctl.contract.plan import read_plan
from studyctl.errors import ExitCode, HeldError, ProblemCode, SpecError, StudyError
from studyctl.files import RUNS, StudyPaths, digest, runs_folder, write_atomic
from studyctl.journal.index import read_stored
from studyctl.plan.compare import compare
from studyctl.plan.devices import place_of
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import other_spec, study_of
from studyctl.plan.timing import to_time
from studyctl.report.plan import print_code
from studyctl.report.problems import draw
from studyctl.run.control import Request, send
from studyctl.run.display import Display, JsonDisplay, LiveDisplay, Output, QuietDisplay
from studyctl.run.hold import Hold, hold
from studyctl.run.install import install_missing
from studyctl.run.runner import Outcome, Runner
from studyctl.run.selection import Selection
from studyctl.run.trust import require_trust
from studyctl.signals import on_stop_signal
from studyctl.spec.loading import Document, load_spec, self_contained
from studyctl.spec.profiles import ProfileFile, cluster_profile
from studyctl.store.holder import Holder, Pulse
from studyctl.store.publish import publish
from studyctl.units import count_text
from studyctl.workers.pool import Pool

DETACH_SECONDS = 60.0
FINISH_SECONDS = 60
DRIVER = "STUDYCTL_DRIVER"
"""Variable that is set for a runner which is a job itself (``driver = "job"``)."""


@dataclass(frozen=True, slots=True)
class Started:
    """The result of ``studyctl run``."""

    paths: StudyPaths
    outcome: Outcome | None
    """None: nothing was run here (handed over, or detached)."""
    message: str
    code: ExitCode


def run_study(  # noqa: PLR0913 - what to run, where, how, and what is shown
    path: Path,
    selection: Selection,
    console: Console,
    *,
    detach: bool = False,
    yes: bool = False,
    root: StudyPaths | None = None,
    trust: bool = False,
    on: str = "",
    changes: tuple[str, ...] = (),
    output: Output = Output.AUTO,
) -> Started:
    """Bring the results of a spec up to date.

    Args:
        path: the spec.
        selection: the part of the study to run.
        console: where progress is shown.
        detach: run in a process that outlives the shell.
        yes: run it although the study was made from another spec, and install packages of its models without asking.
        root: the study's folder; None: the one of its name under runs/, or of the study whose copy the spec is.
        trust: act on the study even if it is not known to be the user's.
        on: name of the profile that says where its workers run; empty: on this machine.
        changes: values to set in the spec first.
        output: what is printed.

    Raises:
        SpecError: the spec or what it names cannot be run.
        HeldError: another runner holds the study and runs this very spec.
        StudyError: the study's folder cannot be written, the engine is not installed, or a package cannot be.
    """
    document = load_spec(path, changes)
    paths = root or study_of(document)
    if not yes and (other := other_spec(document, paths, read_plan(paths))) is not None:
        raise SpecError(other)
    install_missing((model.id for model in document.spec.models), console, yes=yes)
    pulse = Pulse(paths)
    if pulse.wait() is not None:
        _check_is_edited(document, paths)
    profile = usable_profile(on)
    plan = make_plan(document, place_of(profile.profile) if profile else None)
    plan.raise_errors()
    selection.check(plan.trials)
    print_code(plan, console)
    require_trust(paths, console, trust=trust, spec=path)
    if (holder := pulse.wait()) is not None:
        if on:
            what = f"study `{paths.name}` is being run by {holder}: where it runs cannot change now"
            raise HeldError(
                what,
                hint=f"hand it the edited spec without `--on`, or `studyctl stop {quote(paths.name)}` first",
            )
        return _hand_over(document, paths, selection, holder)
    _check_can_run(plan, profile)
    if plan.problems and output is not Output.QUIET:
        draw(plan.problems, console)  # warnings only by now
    if profile is not None and profile.profile.driver == "job" and DRIVER not in os.environ:
        return _submit(path, paths, [*selection.arguments(), *_set(changes)], profile)
    if detach:
        stored = read_stored(paths)
        todo = compare(plan, stored, read_plan(paths), paths.all_weights()).todo
        if any(entry.trial in selection for entry in todo) or to_time(paths, plan, stored):
            return _detach(path, paths, [*selection.arguments(), *_set(changes)], on)
    with hold(paths, pulse) as held:
        return _run_held(plan, held, selection, _display(console, output), profile)


def _set(changes: tuple[str, ...]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def _display(console: Console, output: Output) -> Display:
    match output:
        case Output.JSON:
            return JsonDisplay(console)
        case Output.QUIET:
            return QuietDisplay(console)
        case Output.AUTO if console.is_terminal and not console.is_dumb_terminal:
            return LiveDisplay(console)
    return Display(console)


def usable_profile(name: str) -> ProfileFile | None:
    """Read the profile of this name, if it can be used here; None if its workers run on this machine.

    Raises:
        SpecError: there is none, or it is wrong.
        StudyError: what clusters need is not installed.
    """
    if (profile := cluster_profile(name)) is None:
        return None
    if missing := [
        name for name in ("distributed", "cryptography") if importlib.util.find_spec(name) is None
    ]:
        hint = "pip install 'studyctl[cluster]'"
        raise StudyError(f"workers on other machines need {', '.join(missing)}", hint=hint)
    return profile


def _check_can_run(plan: StudyPlan, profile: ProfileFile | None) -> None:
    """Raise an error if the engine is not installed where the study runs, or a source could not be looked up."""
    engine = ("torch", "transformers", "lm_eval", "datasets")
    missing = [name for name in engine if importlib.util.find_spec(name) is None]
    if missing and profile is None:  # a cluster's workers say it themselves
        raise StudyError(f"running a study needs {', '.join(missing)}", hint="pip install 'studyctl[engine]'")
    hint = "with a network: `studyctl prefetch SPEC` here or on a machine that shares the cache"
    unknown = [
        replace(problem, severity="error", hint=problem.hint or hint)
        for problem in plan.problems
        if problem.code is ProblemCode.NOT_LOOKED_UP
    ]
    if unknown:
        raise SpecError(unknown)


def _run_held(
    plan: StudyPlan, held: Hold, selection: Selection, display: Display, profile: ProfileFile | None
) -> Started:
    paths = held.paths
    if held.note:
        display.message(held.note)
    pool: Pool | None = None
    if profile is not None:
        from studyctl.workers.cluster import ClusterPool  # with Dask, which takes time to import

        pool = ClusterPool(paths, profile, held.token, plan.devices[0], display.message)
    runner = Runner(held, plan, selection, display, pool)
    with on_stop_signal(runner.request_stop):  # Ctrl-C once stops after the running steps, twice at once
        outcome = runner.run()
    message = _summary(paths.name, outcome)
    code = ExitCode.FAILED if outcome.failed or outcome.unavailable else ExitCode.DONE
    code = ExitCode.STOPPED if outcome.stopped else code
    command = plan.document.spec.execution.on_finish
    if command and (outcome.attempts or outcome.timed):
        message += _run_on_finish(command, message, _variables(paths, outcome, code))
    if isinstance(display, JsonDisplay):
        display.ended(message=message, exit_code=int(code), database=str(paths.database), **asdict(outcome))
    elif outcome.attempts and display.console.is_terminal:
        display.console.bell()
    return Started(paths, outcome, message, code)


def _variables(paths: StudyPaths, outcome: Outcome, code: ExitCode) -> dict[str, str]:
    """Return what ``on_finish`` gets in its environment."""
    return {
        "STUDYCTL_STUDY": paths.name,
        "STUDYCTL_FOLDER": str(paths.root.resolve()),
        "STUDYCTL_DATABASE": str(paths.database.resolve()),
        "STUDYCTL_EXIT_CODE": str(int(code)),
        "STUDYCTL_DONE": str(outcome.done),
        "STUDYCTL_FAILED": str(len(outcome.failed)),
        "STUDYCTL_FAILED_TRIALS": " ".join(outcome.failed),
    }


def _summary(study: str, outcome: Outcome) -> str:
    """Return how a run ended, on one line, for the user and for ``on_finish``."""
    if not outcome.attempts and not outcome.timed and not outcome.stopped:
        rest = (
            f" ({count_text(outcome.unavailable, 'trial')} not available here)" if outcome.unavailable else ""
        )
        return f"{study}: nothing to do, everything that was asked for is stored{rest}"
    end = "stopped" if outcome.stopped else "finished"
    rest = f", {outcome.unavailable} not available here" if outcome.unavailable else ""
    timed = f", {outcome.timed} files timed" if outcome.timed else ""
    return (
        f"{study} {end}: {count_text(outcome.done, 'trial')} done, {len(outcome.failed)} failed{timed}{rest}"
    )


def _run_on_finish(command: str, summary: str, variables: dict[str, str]) -> str:
    """Run the user's ``on_finish`` command with the summary on its stdin; return a line with its error, or an empty string."""
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=summary + "\n",
            text=True,
            capture_output=True,
            timeout=FINISH_SECONDS,
            env=os.environ | variables,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"\non_finish was ended after {FINISH_SECONDS} s"
    if not done.returncode:
        return ""
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return ": ".join([f"\non_finish failed with exit code {done.returncode}", *last])


def _check_is_edited(document: Document, paths: StudyPaths) -> None:
    """Refuse the very spec that a runner is running."""
    saved = read_plan(paths)
    if saved is not None and digest(self_contained(document)) == saved.spec_hash:
        with hold(paths):  # raises, and says who holds it
            pass
        raise HeldError(f"the runner of `{paths.name}` has just ended", hint="run again")


def _hand_over(document: Document, paths: StudyPaths, selection: Selection, holder: Holder) -> Started:
    """Give an edited spec to the runner that holds the study."""
    text = self_contained(document)
    send(paths, Request("spec", spec=text, only=selection.only, model=selection.model))
    message = (
        f"handed the edited spec to the runner of `{paths.name}` ({holder}), which applies it between trials"
    )
    if arguments := selection.arguments():
        message += f"; it runs {join(arguments)} beside what it was asked for before"
    return Started(paths, None, message, ExitCode.DONE)


def _submit(path: Path, paths: StudyPaths, options: list[str], profile: ProfileFile) -> Started:
    """Submit the runner itself as a job of one CPU."""
    from studyctl.workers.allocations import scheduler_of, script_of

    if (scheduler := scheduler_of(profile)) is None:
        what = f'`driver = "job"` needs an executor that starts jobs, not `{profile.profile.executor}`'
        raise SpecError(profile.problem(what, ("driver",)))
    log = paths.runner_log.resolve()
    command = [sys.executable, "-P", "-m", "studyctl", "run", str(path.resolve()), "--trust", "--yes"]
    command += [*options, "--on", str(profile.path.resolve())]
    header = scheduler.header(log, f"studyctl-{paths.name}", is_worker=False)
    script = paths.workers / "runner.sh"
    text = script_of(
        scheduler, header, ["env", f"{DRIVER}=1", f"{RUNS}={runs_folder().resolve()}", *command], log
    )
    script.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(script, text)
    job = scheduler.submit(script)
    name = paths.name
    message = (
        f"the runner of {name} is job {job}\n  studyctl watch {quote(name)}   watch it, once it runs\n"
        f"  studyctl stop {quote(name)}    stop it\n  its log is {log}"
    )
    return Started(paths, None, message, ExitCode.DONE)


def _detach(path: Path, paths: StudyPaths, options: list[str], on: str) -> Started:
    """Start a runner that outlives this shell, and wait until it holds the study."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    # -P: a module in the working directory must not take the place of an installed one. It was asked about both already.
    command = [sys.executable, "-P", "-m", "studyctl", "run", str(path), "--trust", "--yes"]
    command += [*options, *(["--on", on] if on else [])]
    with paths.runner_log.open("ab") as log:
        position = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    until, pulse = time.monotonic() + DETACH_SECONDS, Pulse(paths)
    while process.poll() is None and time.monotonic() < until:
        holder = pulse.look()
        if holder is not None and holder.pid == process.pid:
            name = paths.name
            message = (
                f"{name} runs in the background (process {process.pid})\n"
                f"  studyctl watch {quote(name)}   watch it\n"
                f"  studyctl show {quote(name)}    results so far\n"
                f"  studyctl stop {quote(name)}    stop it"
            )
            return Started(paths, None, message, ExitCode.DONE)
        time.sleep(0.05)
    printed = paths.runner_log.read_bytes()[position:].decode(errors="replace").strip()
    if process.poll() == ExitCode.DONE:
        return Started(paths, None, printed, ExitCode.DONE)
    raise StudyError(
        f"the detached runner did not start: {printed or 'no output'}", hint=f"see {paths.runner_log}"
    )


def rebuild(paths: StudyPaths) -> str:
    """Rebuild the database from the journals.

    Raises:
        HeldError: the study is being run, and its runner publishes by itself.
    """
    with hold(paths) as held:
        published = publish(paths, before_replacing=held.check)
    return f"built {paths.database} from the journals in {published.seconds:.2f} s"

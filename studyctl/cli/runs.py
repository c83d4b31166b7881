"""Commands that run studies, watch them and clean up after them."""

from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from studyctl.cli.arguments import (
    JsonOption,
    OnOption,
    SetOption,
    SpecArgument,
    StudyArgument,
    TrialArgument,
    TrustOption,
    YesOption,
    complete_studies,
    print_json,
    stderr,
    stdout,
    study_paths,
)
from studyctl.cli.streams import OutputClosed
from studyctl.cli.terminal import need_terminal, on_a_terminal, open_app
from studyctl.errors import SpecError

if TYPE_CHECKING:
    from studyctl.files import StudyPaths

commands = typer.Typer()


@commands.command()
def run(  # noqa: PLR0913 - the options of the command
    spec: SpecArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only variants or trials that match this pattern, such as 'awq*'. Can be repeated."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only models that match this pattern. Can be repeated.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background; outlives the shell.")
    ] = False,
    tui: Annotated[
        bool, typer.Option("--tui", help="Run in the background and watch it in the terminal app.")
    ] = False,
    trust: TrustOption = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Run it although the study was made from another spec, and install the package of the embedded model without asking.",
        ),
    ] = False,
    changes: SetOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print failures and how it ended, and no results.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for each step, also in a terminal.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Events on stdout, a JSON object a line (docs/cli.md).")
    ] = False,
    on: OnOption = "",
) -> None:
    """Bring the stored results up to date with a spec."""
    from studyctl.report.show import report_run
    from studyctl.run.display import Output
    from studyctl.run.selection import Selection
    from studyctl.run.start import run_study
    from studyctl.spec.bundled import spec_path

    if tui:
        need_terminal("`--tui`", "`--detach` runs it in the background, `studyctl logs STUDY -f` follows it")
    if quiet + verbose + as_json > 1 or (as_json and (detach or tui)):
        raise SpecError(
            "`--quiet`, `--verbose` and `--json` exclude one another, and `--json` waits for the end"
        )
    output = Output.JSON if as_json else Output.QUIET if quiet else Output.LINES if verbose else Output.AUTO
    selection = Selection(tuple(only or ()), tuple(model or ()))
    started = run_study(
        spec_path(spec),
        selection,
        stderr(),
        detach=detach or tui,
        yes=yes,
        trust=trust,
        on=on,
        changes=tuple(changes or ()),
        output=output,
    )
    if as_json:
        raise typer.Exit(started.code)
    if tui:
        stderr().print(started.message, soft_wrap=True, markup=False)
        open_app("monitor", study=started.paths)
        return
    with suppress(OutputClosed):  # the run counts, not who reads its results
        report_run(
            started.paths,
            started.message,
            stdout(),
            stderr(),
            with_results=started.outcome is not None and not quiet,
        )
    raise typer.Exit(started.code)


@commands.command()
def bench(
    study: StudyArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only variants or trials that match this pattern, beside dense. Can be repeated."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads of the runtime; default: as the spec says. Can be repeated.", min=1),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Time the files of a study on this machine, with llama.cpp."""
    from studyctl.report.deployment import show_deployment
    from studyctl.run.bench import bench as run_bench
    from studyctl.run.trust import require_trust
    from studyctl.store import results

    paths = study_paths(study)
    require_trust(paths, stderr(), trust=trust)
    code = run_bench(paths, tuple(only or ()), tuple(threads or ()), stderr())
    with suppress(OutputClosed), results.open(paths) as published:
        show_deployment(published, stdout())
    raise typer.Exit(code)


@commands.command()
def watch(
    study: Annotated[
        str,
        typer.Argument(
            metavar="[STUDY]", help="Without one: every study under runs/.", autocompletion=complete_studies
        ),
    ] = "",
    plain: Annotated[bool, typer.Option("--plain", help="Print lines, as without a terminal.")] = False,
) -> None:
    """Watch studies in the terminal app. The runs go on when you leave it."""
    paths = study_paths(study) if study else None
    if not plain and on_a_terminal():
        open_app("monitor" if paths else "studies", study=paths)
    elif paths is not None:
        from studyctl.report.watch import watch_plainly

        watch_plainly(paths, stdout())
    else:
        from studyctl.report.studies import draw_studies
        from studyctl.store.studies import study_rows

        draw_studies(study_rows(), stdout())


@commands.command()
def stop(
    study: StudyArgument,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the running steps.")] = False,
) -> None:
    """Stop a study after its running steps; measured results are stored."""
    from studyctl.run.control import ask_to_stop

    stderr().print(ask_to_stop(study_paths(study), "now" if now else "after_step"))


@commands.command()
def retry(
    study: StudyArgument, trial: TrialArgument = "", trust: TrustOption = False, on: OnOption = ""
) -> None:
    """Try failed trials again: all of them, or one."""
    from studyctl.report.show import report_run
    from studyctl.run.control import ask_to_retry
    from studyctl.run.selection import Selection
    from studyctl.run.start import run_study
    from studyctl.store.live import Live
    from studyctl.store.studies import find_trial

    paths = study_paths(study)
    name = find_trial(paths, trial) if trial else ""
    if (asked := ask_to_retry(paths, name)) is not None:
        stderr().print(asked)
        return
    failed = [one.trial for one in Live(paths).refresh().trials if one.state == "failed"]
    if not (only := (name,) if name else tuple(failed)):
        message = f"no trial of {paths.name} failed; `studyctl run {quote(str(paths.spec))}` runs what is not stored"
        stderr().print(message, soft_wrap=True, markup=False)
        return
    started = run_study(paths.spec, Selection(only), stderr(), root=paths, trust=trust, on=on)
    with suppress(OutputClosed):
        report_run(paths, started.message, stdout(), stderr(), with_results=True)
    raise typer.Exit(started.code)


@commands.command()
def logs(
    study: StudyArgument,
    trial: TrialArgument = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow until the run ends.")] = False,
) -> None:
    """Print the log of a study or trial, including what libraries printed."""
    from studyctl.report.logs import print_logs
    from studyctl.store.studies import find_trial

    paths = study_paths(study)
    print_logs(paths, find_trial(paths, trial) if trial else None, stdout(), follow=follow)


@commands.command("list")
def list_studies(as_json: JsonOption = False) -> None:
    """List the studies under runs/: state, progress, host, last activity."""
    from studyctl.report.studies import draw_studies
    from studyctl.store.studies import study_rows

    rows = study_rows()
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        draw_studies(rows, stdout())


@commands.command()
def gc(study: StudyArgument, yes: YesOption = False, trust: TrustOption = False) -> None:
    """Show what can be deleted from a study without losing a result; --yes deletes it."""
    from studyctl.run.cleaning import clean

    clean(_deleting(study, yes=yes, trust=trust), stdout(), yes=yes)


@commands.command()
def rm(study: StudyArgument, yes: YesOption = False, trust: TrustOption = False) -> None:
    """Delete a study with its results; requires --yes."""
    from studyctl.run.cleaning import remove

    remove(_deleting(study, yes=yes, trust=trust), stdout(), yes=yes)


def _deleting(study: str, *, yes: bool, trust: bool) -> "StudyPaths":
    """Return the files of a study from which something is deleted if ``yes``."""
    from studyctl.run.trust import require_trust

    paths = study_paths(study)
    if yes:
        require_trust(paths, stderr(), trust=trust)
    return paths

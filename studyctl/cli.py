"""The commands. Data goes to stdout, everything else to stderr; every error ends with what to do.

Nothing heavy is imported at module level: ``studyctl --help`` must not wait for anything.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studyctl.errors import ExitCode, StudyError

if TYPE_CHECKING:
    from rich.console import Console

    from studyctl.files import StudyPaths

app = typer.Typer(
    name="studyctl",
    help="Measure what pruning and quantizing small language models costs, per language and per task.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="The results database.", no_args_is_help=True)
app.add_typer(db, name="db")
backends = typer.Typer(
    help="Other packages that a variant can be compressed by, each in an environment of its own."
)
app.add_typer(backends, name="backends")


def _studies(incomplete: str) -> Iterator[str]:
    from studyctl.store.studies import study_names

    return (name for name in study_names() if name.startswith(incomplete))


def _trials(context: typer.Context, incomplete: str) -> Iterator[str]:
    from studyctl.store.studies import find_study, trial_names

    names = trial_names(find_study(context.params["study"])) if context.params.get("study") else []
    return (name for name in names if name.startswith(incomplete))


def _specs(incomplete: str) -> Iterator[str]:
    from studyctl.spec.bundled import bundled_names
    from studyctl.spec.nearby import specs_below

    yield from (name for path in specs_below(Path()) if (name := str(path)).startswith(incomplete))
    yield from (name for name in bundled_names() if name.startswith(incomplete))


def _backends(incomplete: str) -> Iterator[str]:
    from studyctl.backends.catalog import BACKENDS

    return (name for name in BACKENDS if name.startswith(incomplete))


SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="A spec file, or the name of one that ships: pocket, paper ...",
        autocompletion=_specs,
    ),
]
StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A name under runs/, or a study's folder.", autocompletion=_studies),
]
TrialArgument = Annotated[
    str,
    typer.Argument(metavar="[TRIAL]", help="A trial, or the beginning of its name.", autocompletion=_trials),
]
BackendsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...", help="autoawq, auto-gptq, gptqmodel, llm-compressor", autocompletion=_backends
    ),
]
BackendNames = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=_backends)]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without it only what would be done is shown.")]


class Format(StrEnum):
    """How ``studyctl sql`` prints a result."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _stdout() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def _find(study: str) -> "StudyPaths":
    from studyctl.store.studies import find_study

    return find_study(study)


def _on_a_terminal() -> bool:
    """Return whether the app can be drawn: it reads keys from stdin, and asks for more than a dumb terminal has."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return not dumb and all(stream is not None and stream.isatty() for stream in streams)


def _need_terminal(what: str, instead: str) -> None:
    if not _on_a_terminal():
        raise StudyError(f"{what} needs a terminal", hint=instead)


def _open_app(screen: str, *, study: "StudyPaths | None" = None, spec: Path | None = None) -> None:
    """Run the terminal app, say what it left to say, and end as it ended."""
    from gc import disable, enable  # `gc` is one of our commands

    disable()  # the app has it enabled once it stands: almost all that is made before that stays
    try:
        _run_app(screen, study, spec)
    finally:
        enable()


def _run_app(screen: str, study: "StudyPaths | None", spec: Path | None) -> None:
    from tui.view import Watcher

    watcher = Watcher(study) if study is not None else None
    if watcher is not None:
        watcher.begin()  # reads while the app is imported
    from tui.app import StudyApp

    shown = StudyApp(screen, study=study, spec=spec, watcher=watcher)
    if said := shown.run():
        _stderr().print(said, soft_wrap=True, markup=False)
    if shown.return_code:
        raise typer.Exit(shown.return_code)


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Explain what is here."""
    if version:
        from studyctl import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        from studyctl.report.studies import welcome

        welcome(_stdout())


@app.command()
def validate(spec: SpecArgument, as_json: JsonOption = False) -> None:
    """Check a spec by itself: keys, types, bounds, names."""
    from studyctl.spec.bundled import spec_path
    from studyctl.spec.loading import load_spec

    document = load_spec(spec_path(spec))
    if as_json:
        _print_json({"valid": True, "study": document.spec.study.name})
    else:
        typer.echo(f"{document.path}: valid", err=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors."""
    from studyctl.spec.schema import json_schema

    _print_json(json_schema())


@app.command()
def plan(
    spec: SpecArgument,
    as_json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Too little disk or memory is an error.")] = False,
) -> None:
    """Show what a spec asks for, what is stored already, what would run and why, and what that takes."""
    from studyctl.plan.preview import preview
    from studyctl.report.plan import draw_plan, plan_as_json
    from studyctl.spec.bundled import spec_path
    from studyctl.spec.loading import load_spec

    shown = preview(load_spec(spec_path(spec)), strict=strict)
    if as_json:
        _print_json(plan_as_json(shown))
    else:
        draw_plan(shown, _stdout(), _stderr())
    if shown.errors:
        raise typer.Exit(ExitCode.BAD_SPEC)


@app.command()
def run(
    spec: SpecArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only variants or trials of this pattern, such as 'awq*'. May be given several times."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only models of this pattern. May be given several times.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background; outlives the shell.")
    ] = False,
    tui: Annotated[
        bool, typer.Option("--tui", help="Run in the background and watch it in the terminal app.")
    ] = False,
) -> None:
    """Bring the stored results up to date with a spec."""
    from studyctl.report.run import report_run
    from studyctl.run.selection import Selection
    from studyctl.run.start import run_study
    from studyctl.spec.bundled import spec_path

    if tui:
        _need_terminal("`--tui`", "`--detach` runs it in the background, `studyctl logs STUDY -f` looks in")
    selection = Selection(tuple(only or ()), tuple(model or ()))
    started = run_study(spec_path(spec), selection, _stderr(), detach=detach or tui)
    if tui:
        _stderr().print(started.message, soft_wrap=True, markup=False)
        _open_app("monitor", study=started.paths)
        return
    report_run(started.paths, started.message, _stdout(), _stderr(), with_results=started.outcome is not None)
    raise typer.Exit(started.code)


@app.command()
def watch(
    study: Annotated[
        str,
        typer.Argument(
            metavar="[STUDY]", help="Without one: every study under runs/.", autocompletion=_studies
        ),
    ] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines of what happens, as without a terminal.")
    ] = False,
) -> None:
    """Watch studies in the terminal app; it is not the run, so leaving it changes nothing."""
    paths = _find(study) if study else None
    if not plain and _on_a_terminal():
        _open_app("monitor" if paths else "studies", study=paths)
    elif paths is not None:
        from studyctl.report.watch import watch_plainly

        watch_plainly(paths, _stdout())
    else:
        from studyctl.report.studies import draw_studies
        from studyctl.store.studies import study_rows

        draw_studies(study_rows(), _stdout())


@app.command()
def edit(spec: SpecArgument) -> None:
    """Write or change a spec, with its problems and what it would run beside it."""
    from studyctl.spec.bundled import spec_path

    path = spec_path(spec)
    if path.suffix != ".toml" and not path.is_file():
        raise StudyError(
            f"{path} is not there",
            hint=f"a name that ends in .toml begins a new spec: `studyctl edit {path}.toml`",
        )
    if path.is_dir():
        raise StudyError(f"{path} is a folder", hint="name the spec in it")
    _need_terminal(
        "`studyctl edit`", f"any editor will do; `studyctl plan {spec}` says what is wrong with it"
    )
    _open_app("spec", spec=path)


@app.command()
def stop(
    study: StudyArgument,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the running stages.")] = False,
) -> None:
    """Stop a study after its running stages; what was measured is stored."""
    from studyctl.run.control import ask_to_stop

    _stderr().print(ask_to_stop(_find(study), "now" if now else "after_stage"))


@app.command()
def retry(study: StudyArgument, trial: TrialArgument = "") -> None:
    """Try failed trials again: all of them, or one."""
    from studyctl.report.run import report_run
    from studyctl.run.control import ask_to_retry
    from studyctl.run.selection import Selection
    from studyctl.run.start import run_study
    from studyctl.store.studies import find_trial

    paths = _find(study)
    name = find_trial(paths, trial) if trial else ""
    if (asked := ask_to_retry(paths, name)) is not None:
        _stderr().print(asked)
        return
    started = run_study(paths.spec, Selection((name,) if name else ()), _stderr(), root=paths)
    report_run(paths, started.message, _stdout(), _stderr(), with_results=True)
    raise typer.Exit(started.code)


@app.command()
def logs(
    study: StudyArgument,
    trial: TrialArgument = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
) -> None:
    """Print what happened in a study or trial, and what its libraries printed."""
    from studyctl.report.logs import print_logs
    from studyctl.store.studies import find_trial

    paths = _find(study)
    print_logs(paths, find_trial(paths, trial) if trial else None, _stdout(), follow=follow)


@app.command("list")
def list_studies(as_json: JsonOption = False) -> None:
    """List the studies under runs/: state, progress, host, last sign of life."""
    from studyctl.report.studies import draw_studies
    from studyctl.store.studies import study_rows

    rows = study_rows()
    if as_json:
        _print_json([row.as_dict() for row in rows])
    else:
        draw_studies(rows, _stdout())


@app.command()
def show(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Show a study's results: leaderboard, languages, tasks, failures."""
    from studyctl.report import show as report
    from studyctl.store import results as store

    with store.open(_find(study)) as results:
        if as_json:
            _print_json(report.as_json(results))
        else:
            report.show(results, _stdout())


@app.command()
def sql(
    study: StudyArgument,
    query: Annotated[str, typer.Argument(help="Without one: a prompt.")] = "",
    output: Annotated[Format, typer.Option("--format", help="How the result is printed.")] = Format.TABLE,
    external: Annotated[
        bool, typer.Option("--external", help="Let the query read and write other files.")
    ] = False,
    tui: Annotated[bool, typer.Option("--tui", help="Open the query editor of the terminal app.")] = False,
) -> None:
    """Ask the results a question in SQL."""
    from studyctl.report.sql import answer, prompt

    paths = _find(study)
    if tui:
        if query or external or output is not Format.TABLE:
            raise StudyError(
                "`--tui` opens an editor: it takes a study and nothing else", hint="leave one out"
            )
        _need_terminal("`--tui`", f"`studyctl sql {study} QUERY` prints an answer")
        _open_app("sql", study=paths)
        return
    if query:
        answer(paths, query, str(output), external_access=external)
    else:
        prompt(paths, str(output), external_access=external)


@app.command()
def export(
    study: StudyArgument,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL", help="A trial, or the beginning of its name.", autocompletion=_trials
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; missing or empty.")],
) -> None:
    """Write a trial's weights as a folder that transformers and vLLM load, with a model card."""
    from studyctl.run.export import export_trial

    exported = export_trial(_find(study), trial, folder, _stderr())
    _stderr().print(exported.message, soft_wrap=True, markup=False)
    typer.echo(str(exported.folder))


@app.command()
def prefetch(spec: SpecArgument) -> None:
    """Download and convert everything a spec needs, for machines without a network."""
    from studyctl.report.lines import ConsoleReporter
    from studyctl.sources.prefetch import prefetch as fetch
    from studyctl.spec.bundled import spec_path
    from studyctl.spec.loading import load_spec

    console = _stderr()
    fetch(load_spec(spec_path(spec)), ConsoleReporter(console))
    console.print("everything is here")


@app.command()
def gc(study: StudyArgument, yes: YesOption = False) -> None:
    """Show what can be deleted from a study without losing a result; --yes deletes it."""
    from studyctl.run.cleaning import clean

    clean(_find(study), _stdout(), yes=yes)


@app.command()
def rm(study: StudyArgument, yes: YesOption = False) -> None:
    """Delete a study with its results; asks for --yes."""
    from studyctl.run.cleaning import remove

    remove(_find(study), _stdout(), yes=yes)


@db.command("rebuild")
def db_rebuild(study: StudyArgument) -> None:
    """Build the database anew from the journals."""
    from studyctl.run.start import rebuild

    _stderr().print(rebuild(_find(study)))


@backends.callback(invoke_without_command=True)
def list_backends(context: typer.Context, as_json: JsonOption = False) -> None:
    """List them: version, methods, devices, whether the environment is there, its size on disk."""
    if context.invoked_subcommand is not None:
        return
    from studyctl.backends.catalog import BACKENDS
    from studyctl.backends.environments import environment
    from studyctl.report.backends import backends_as_json, draw_backends

    found = [environment(backend) for backend in BACKENDS.values()]
    if as_json:
        _print_json(backends_as_json(found))
    else:
        draw_backends(found, _stdout())


@backends.command("sync")
def sync_backends(names: BackendsArgument = None) -> None:
    """Make the environments that are missing (all, or those named) and check each on a tiny model."""
    from studyctl.backends.catalog import BACKENDS
    from studyctl.backends.environments import find_backend, sync

    problems = []
    console = _stderr()
    for backend in [find_backend(name) for name in names or BACKENDS]:

        def tell(step: str, name: str = backend.name) -> None:
            console.print(f"{name}: {step}", soft_wrap=True)

        try:
            if not sync(backend, tell):
                tell("synced already")
        except StudyError as error:  # the others can be made all the same
            problems += error.problems
    if problems:
        raise StudyError(problems)


@backends.command("remove")
def remove_backends(names: BackendNames) -> None:
    """Delete environments; `sync` makes them again."""
    from studyctl.backends.environments import find_backend, remove

    for backend in [find_backend(name) for name in names]:
        removed = remove(backend)
        _stderr().print(f"{backend.name}: " + ("removed" if removed else "there was nothing to remove"))


@contextmanager
def _errors_drawn() -> Iterator[None]:
    """Draw what a user can cause; anything else is a bug and keeps its traceback."""
    try:
        yield
    except StudyError as error:
        from studyctl.report.problems import as_json, draw

        if "--json" in sys.argv:
            _print_json({"problems": as_json(error.problems)})
        else:
            draw(error.problems, _stderr())
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.STOPPED) from None
    except BrokenPipeError:
        # `studyctl sql ... | head` closed our stdout: not an error, and Python must not complain when it flushes at exit.
        sys.stderr.close()
        raise SystemExit(ExitCode.DONE) from None


def main(run_app: Callable[[], None] = app) -> None:
    """Run the command line."""
    with _errors_drawn():
        run_app()


if __name__ == "__main__":
    main()

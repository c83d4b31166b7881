"""The commands. Data goes to stdout, everything else to stderr; errors end with what to do.

Nothing heavy is imported at module level, so that ``studyctl --help`` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from studyctl.cli import backends, cluster, results, runs, specs
from studyctl.cli.arguments import print_json, stderr, stdout
from studyctl.cli.streams import OutputError, prepare_streams
from studyctl.errors import ExitCode, StudyError
from studyctl.files import RUNS

app = typer.Typer(
    name="studyctl",
    help="Measure what pruning and quantizing small language models costs, per language and per task.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (specs, runs, results, cluster):
    app.add_typer(group.commands)
app.add_typer(results.db, name="db")
app.add_typer(backends.commands, name="backends")
app.add_typer(cluster.profile, name="profile")


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    runs_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder that holds the studies, in place of runs/ in this folder.",
            envvar=RUNS,
        ),
    ] = None,
) -> None:
    """Show the studies here, and commands to try."""
    if runs_dir is not None:
        os.environ[RUNS] = str(runs_dir)
    if version:
        from studyctl import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        from studyctl.report.studies import welcome

        welcome(stdout())


def main() -> None:
    """Run the command line. Errors that a user can cause are shown as problems; any other is a bug and keeps its traceback."""
    prepare_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except StudyError as error:
        from studyctl.report.problems import as_json, draw

        if "--json" in sys.argv and not isinstance(error, OutputError):
            print_json({"problems": as_json(error.problems)})
        else:
            draw(error.problems, stderr())
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.STOPPED) from None

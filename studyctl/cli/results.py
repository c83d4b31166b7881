"""Commands that read results, and that export weights."""

import sys
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from studyctl.cli.arguments import (
    JsonOption,
    StudyArgument,
    TrustOption,
    complete_trials,
    print_json,
    stderr,
    stdout,
    study_paths,
)
from studyctl.cli.terminal import need_terminal, open_app
from studyctl.contract.exports import Embeddings, ExportFormat
from studyctl.errors import ExitCode, StudyError

commands = typer.Typer()
db = typer.Typer(help="The results database.", no_args_is_help=True)


class Format(StrEnum):
    """How ``studyctl sql`` prints a result."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@commands.command()
def show(
    study: StudyArgument,
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRIAL]",
            help="One trial or variant, or the beginning of its name: its size as deployed, its figures.",
            autocompletion=complete_trials,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a study's results: leaderboard, languages, tasks, failures."""
    from studyctl.report import show as report
    from studyctl.report.watch import death
    from studyctl.store import results as store
    from studyctl.store.holder import dead_runner

    paths = study_paths(study)
    dead = dead_runner(paths)
    with store.open(paths) as results:
        if trial is not None:
            from studyctl.journal.notes import read_notes
            from studyctl.report.plain import plain
            from studyctl.report.trial import show_trial
            from studyctl.store.studies import find_trial

            row = results.standing(find_trial(paths, trial))
            row = report.left_behind(row) if dead is not None else row
            deployed = [one for one in results.deployment(row.model) if one.trial_id == row.trial_id]
            noted = read_notes(paths).get(row.trial_id)
            note = noted.text if noted is not None else None
            if as_json:
                print_json(plain(row) | {"note": note, "deployment": plain(deployed)})
            else:
                show_trial(row, deployed, stdout(), note=note)
        elif as_json:
            print_json(report.as_json(results))
        else:
            report.show(results, stdout(), death(dead, paths) if dead is not None else "")


@commands.command()
def report(
    study: StudyArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .html (with charts), .tex or .md.")
    ],
    items: Annotated[
        bool,
        typer.Option("--items", help="List items that flipped; published items of tests leak into training."),
    ] = False,
) -> None:
    """Write a study's results as one page: verdicts, figures, settings, versions, methods with citations."""
    from studyctl.report.document.write import write_report

    write_report(study_paths(study), output, with_items=items)
    typer.echo(str(output.resolve()))


@commands.command()
def findings(
    study: StudyArgument,
    as_json: JsonOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a confirmatory hypothesis is not supported.")
    ] = False,
    rows: Annotated[
        bool, typer.Option("--rows", help="Each language, model and task too, and the estimate without each.")
    ] = False,
) -> None:
    """Show the verdicts on the hypotheses of the spec."""
    from studyctl.report import findings as report
    from studyctl.store import results as store

    with store.open(study_paths(study)) as results:
        hypotheses = results.hypotheses()
        if as_json:
            print_json(report.as_json(results))
        elif hypotheses:
            report.show_findings(results, stdout(), rows=rows)
        else:
            stderr().print(
                "No hypothesis is published: write [[hypotheses]] into the spec (docs/findings.md) and run it again, which measures nothing twice.",
                markup=False,
            )
        if strict and (failed := report.not_supported(hypotheses)):
            stderr().print(f"not supported: {', '.join(failed)}", markup=False)
            raise typer.Exit(ExitCode.FAILED)


class Match(StrEnum):
    """What variants of two sides have in common."""

    BITS = "bits"
    SPARSITY = "sparsity"


@commands.command()
def contrast(
    study: StudyArgument,
    left: Annotated[str, typer.Argument(metavar="LEFT", help="A method, or variants with * and ?.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="What it is compared with.")],
    match: Annotated[
        Match | None, typer.Option("--match", help="Compare variants with the same value only.")
    ] = None,
    language: Annotated[str | None, typer.Option("--language", help="Figures of one language.")] = None,
) -> None:
    """Compare two methods or variants by every metric, with 95 % intervals."""
    from studyctl.report import findings as report
    from studyctl.store import results as store

    with store.open(study_paths(study)) as results:
        report.contrast(results, left, right, stdout(), match=match, language=language)


@commands.command()
def sql(
    study: StudyArgument,
    query: Annotated[
        str, typer.Argument(help="A query, or - to read one from stdin; opens a prompt if omitted.")
    ] = "",
    output: Annotated[Format, typer.Option("--format", help="How the result is printed.")] = Format.TABLE,
    external: Annotated[
        bool, typer.Option("--external", help="Let the query read and write other files.")
    ] = False,
    tui: Annotated[bool, typer.Option("--tui", help="Open the query editor of the terminal app.")] = False,
) -> None:
    """Query the results in SQL."""
    from studyctl.report.sql import answer, prompt

    paths = study_paths(study)
    if tui:
        if query or external or output is not Format.TABLE:
            raise StudyError(
                "`--tui` opens an editor: it takes a study and nothing else", hint="leave one out"
            )
        need_terminal("`--tui`", f"`studyctl sql {quote(study)} QUERY` prints an answer")
        open_app("sql", study=paths)
        return
    if query == "-":
        query = sys.stdin.read()
    if query:
        answer(paths, query, str(output), external_access=external)
    else:
        prompt(paths, str(output), external_access=external)


@commands.command()
def export(
    study: StudyArgument,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL",
            help="A trial or a variant, or the beginning of its name.",
            autocompletion=complete_trials,
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The folder to make; missing or empty. A GGUF file is written into it.",
        ),
    ],
    to: Annotated[
        ExportFormat, typer.Option(help="A folder for transformers and vLLM, or a GGUF file for llama.cpp.")
    ] = ExportFormat.FOLDER,
    embeddings: Annotated[
        Embeddings | None,
        typer.Option(help="How a GGUF file stores embeddings and head; as they are without it."),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Write a trial's weights with a model card: as a folder that transformers and vLLM load, or as a GGUF file."""
    from studyctl.run.export import export_trial
    from studyctl.run.trust import require_trust

    paths = study_paths(study)
    require_trust(paths, stderr(), trust=trust)
    message = export_trial(paths, trial, folder, stderr(), to, embeddings)
    stderr().print(message, soft_wrap=True, markup=False)
    typer.echo(str(folder.resolve()))


@db.command("rebuild")
def db_rebuild(study: StudyArgument, trust: TrustOption = False) -> None:
    """Rebuild the database from the journals."""
    from studyctl.run.start import rebuild
    from studyctl.run.trust import require_trust

    paths = study_paths(study)
    require_trust(paths, stderr(), trust=trust)
    stderr().print(rebuild(paths))

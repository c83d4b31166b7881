"""Commands about a spec."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from studyctl.cli.arguments import JsonOption, OnOption, SetOption, SpecArgument, print_json, stderr, stdout
from studyctl.cli.terminal import need_terminal, open_app
from studyctl.errors import ExitCode, StudyError

commands = typer.Typer()


@commands.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where your models and texts are.")
    ] = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Write it without asking.")] = False,
) -> None:
    """Write a spec for the models, texts and tables of questions in a folder."""
    from studyctl.report.starter import write_starter

    write_starter(folder, stderr(), yes=yes)


@commands.command()
def validate(spec: SpecArgument, as_json: JsonOption = False, changes: SetOption = None) -> None:
    """Check a spec without looking up its sources: keys, types, bounds, names."""
    from studyctl.spec.bundled import spec_path
    from studyctl.spec.loading import load_spec

    document = load_spec(spec_path(spec), changes or ())
    if as_json:
        print_json({"valid": True, "study": document.spec.study.name})
    else:
        typer.echo(f"{document.path}: valid", err=True)


@commands.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors."""
    from studyctl.spec.schema import json_schema

    print_json(json_schema())


@commands.command()
def plan(
    spec: SpecArgument,
    as_json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Too little disk or memory is an error.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 if `run` would have something to do.")
    ] = False,
    changes: SetOption = None,
    on: OnOption = "",
) -> None:
    """Show what a spec asks for, what is stored, what would run and why, and the time, memory and disk needed."""
    from studyctl.plan.devices import place_of
    from studyctl.plan.preview import preview
    from studyctl.report.plan import draw_plan, plan_as_json
    from studyctl.spec.bundled import spec_path
    from studyctl.spec.loading import load_spec
    from studyctl.spec.profiles import cluster_profile

    profile = cluster_profile(on)
    place = place_of(profile.profile) if profile else None
    shown = preview(load_spec(spec_path(spec), changes or ()), place, strict=strict)
    if as_json:
        print_json(plan_as_json(shown))
    else:
        draw_plan(shown, stdout(), stderr())
    if shown.errors:
        raise typer.Exit(ExitCode.BAD_SPEC)
    if exit_code and (shown.comparison.todo or shown.timing.files):
        raise typer.Exit(ExitCode.TO_DO)


@commands.command()
def edit(spec: SpecArgument) -> None:
    """Edit a spec in the terminal app, which shows its problems and its plan."""
    from studyctl.spec.bundled import spec_path

    path = spec_path(spec)
    if path.suffix != ".toml" and not path.is_file():
        raise StudyError(
            f"there is no spec {path}",
            hint=f"a name that ends in .toml starts a new one: `studyctl edit {quote(f'{path}.toml')}`",
        )
    if path.is_dir():
        raise StudyError(f"{path} is a folder", hint="name a spec in it")
    need_terminal("`studyctl edit`", f"use any editor, and `studyctl plan {quote(spec)}` to check the spec")
    open_app("spec", spec=path)


@commands.command()
def prefetch(spec: SpecArgument) -> None:
    """Download and convert everything a spec needs, for machines without a network."""
    from studyctl.plan.planner import make_plan
    from studyctl.report.lines import ConsoleReporter
    from studyctl.spec.bundled import spec_path
    from studyctl.spec.loading import load_spec
    from studyctl.work.prefetch import prefetch as fetch

    console = stderr()
    fetch(make_plan(load_spec(spec_path(spec))), ConsoleReporter(console))
    console.print("everything is downloaded")

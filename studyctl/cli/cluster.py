"""Commands about workers on other machines."""

from pathlib import Path
from typing import Annotated

import typer

from studyctl.cli.arguments import JsonOption, StudyArgument, print_json, stderr, stdout, study_paths

commands = typer.Typer()
profile = typer.Typer(name="profile", help="Where workers run: profiles of clusters.", no_args_is_help=True)


@commands.command()
def worker(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's folder.")],
    name: Annotated[str, typer.Option(help="Its name; one that no other worker of the study has.")] = "",
    idle: Annotated[float, typer.Option(help="Leave after so many seconds without a runner.")] = 600.0,
) -> None:
    """Be a worker of a study: wait for its runner and run trials. `studyctl run --on` starts workers by itself."""
    import os
    import socket
    import sys
    from importlib.util import find_spec

    from studyctl.errors import StudyError
    from studyctl.files import StudyPaths

    if missing := [package for package in ("distributed", "torch") if find_spec(package) is None]:
        hint = f"`setup` and `python` of the profile decide what runs here ({sys.executable})"
        raise StudyError(f"{' and '.join(missing)} cannot be imported on {socket.gethostname()}", hint=hint)
    from studyctl.workers.node import serve

    serve(StudyPaths(Path(study)), name or f"{socket.gethostname()}-{os.getpid()}", idle)


@commands.command()
def workers(
    study: StudyArgument,
    drain: Annotated[str, typer.Option(metavar="NAME", help="Let this worker leave after its trial.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the workers of a running study, and those that were asked for and wait."""
    from studyctl.report.workers import draw_workers, workers_as_json
    from studyctl.run.control import ask_to_drain

    paths = study_paths(study)
    if drain:
        stderr().print(ask_to_drain(paths, drain))
    elif as_json:
        print_json(workers_as_json(paths))
    else:
        draw_workers(paths, stdout())


@profile.command()
def check(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name or file.")],
) -> None:
    """Ask for one worker of a profile, and say what it is: time to begin, versions, folder, GPU."""
    from studyctl.errors import StudyError
    from studyctl.plan.devices import place_of
    from studyctl.report.workers import draw_checked
    from studyctl.run.start import usable_profile

    if (file := usable_profile(name)) is None:
        raise StudyError(f"profile `{name}` runs on this machine", hint="there is nothing to check")
    from studyctl.workers.check import check_profile

    log = stderr()
    checked = check_profile(
        file, place_of(file.profile).devices[0], lambda text: log.print(text, markup=False, soft_wrap=True)
    )
    draw_checked(checked, file, stdout())

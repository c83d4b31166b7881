"""Commands about the environments of other packages."""

import typer

from studyctl.cli.arguments import BackendNames, BackendsArgument, JsonOption, print_json, stderr, stdout
from studyctl.errors import StudyError

commands = typer.Typer(help="Other packages that can compress a variant, each in an environment of its own.")


@commands.callback(invoke_without_command=True)
def list_backends(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the backends: version, methods, devices, whether the environment exists, its size on disk."""
    if context.invoked_subcommand is not None:
        return
    from studyctl.backends.catalog import BACKENDS
    from studyctl.backends.environments import environment
    from studyctl.report.backends import backends_as_json, draw_backends

    environments = [environment(backend) for backend in BACKENDS.values()]
    if as_json:
        print_json(backends_as_json(environments))
    else:
        draw_backends(environments, stdout())


@commands.command("sync")
def sync_backends(names: BackendsArgument = None) -> None:
    """Make missing environments (all, or those named) and check each on a tiny model."""
    from studyctl.backends.catalog import BACKENDS
    from studyctl.backends.environments import find_backend, sync

    problems = []
    console = stderr()
    for backend in [find_backend(name) for name in names or BACKENDS]:

        def report(step: str, name: str = backend.name) -> None:
            console.print(f"{name}: {step}", soft_wrap=True)

        try:
            if not sync(backend, report):
                report("synced already")
        except StudyError as error:  # the others are still made
            problems += error.problems
    if problems:
        raise StudyError(problems)


@commands.command("remove")
def remove_backends(names: BackendNames) -> None:
    """Delete environments; `sync` makes them again."""
    from studyctl.backends.environments import find_backend, remove

    for backend in [find_backend(name) for name in names]:
        removed = remove(backend)
        stderr().print(f"{backend.name}: " + ("removed" if removed else "there was nothing to remove"))

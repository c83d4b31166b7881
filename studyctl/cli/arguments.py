"""Arguments shared by several commands, with their completion, and the consoles for output."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studyctl.printable import escaped_json

if TYPE_CHECKING:
    from rich.console import Console

    from studyctl.files import StudyPaths

ENDLESS = 1 << 20
"""Characters per line where there is no terminal."""


def complete_studies(incomplete: str) -> Iterator[str]:
    """Complete the name of a study."""
    from studyctl.store.studies import study_names

    return (name for name in study_names() if name.startswith(incomplete) and name.isprintable())


def complete_trials(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Complete the name of a trial of the study given before it."""
    from studyctl.store.studies import find_study, trial_names

    names = trial_names(find_study(context.params["study"])) if context.params.get("study") else []
    return (name for name in names if name.startswith(incomplete) and name.isprintable())


def complete_specs(incomplete: str) -> Iterator[str]:
    """Complete the path or name of a spec."""
    from studyctl.spec.bundled import bundled_names
    from studyctl.spec.nearby import specs_below

    yield from (name for path in specs_below(Path()) if (name := str(path)).startswith(incomplete))
    yield from (name for name in bundled_names() if name.startswith(incomplete))


def complete_profiles(incomplete: str) -> Iterator[str]:
    """Complete the name of a profile."""
    from studyctl.spec.profiles import profile_folders

    names = {path.stem for folder in profile_folders() for path in folder.glob("*.toml")}
    return (name for name in sorted(names) if name.startswith(incomplete) and name.isprintable())


def complete_backends(incomplete: str) -> Iterator[str]:
    """Complete the name of a backend."""
    from studyctl.backends.catalog import BACKENDS

    return (name for name in BACKENDS if name.startswith(incomplete))


SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="A spec file, or the name of one that ships with studyctl: pocket, paper ...",
        autocompletion=complete_specs,
    ),
]
StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A name under runs/, or a study's folder.", autocompletion=complete_studies
    ),
]
TrialArgument = Annotated[
    str,
    typer.Argument(
        metavar="[TRIAL]",
        help="A trial or a variant, or the beginning of its name.",
        autocompletion=complete_trials,
    ),
]
BackendsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="autoawq, auto-gptq, gptqmodel, llm-compressor",
        autocompletion=complete_backends,
    ),
]
BackendNames = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=complete_backends)]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Really delete; without this option, only show what would be deleted.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Act on a study that somebody else made, and count it as yours from now on."
    ),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a value of the spec, such as evaluation.perplexity.windows=4 or models.0.dtype=float32. Can be repeated.",
    ),
]
OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="PROFILE",
        help="Where its workers run: a profile's name or file (docs/cluster.md). Default: this machine.",
        autocompletion=complete_profiles,
    ),
]


def study_paths(study: str) -> "StudyPaths":
    """Return the files of the study that an argument names."""
    from studyctl.store.studies import find_study

    return find_study(study)


def stderr() -> "Console":
    """Return the console for everything except data."""
    from studyctl.report.console import TextConsole

    return TextConsole(stderr=True)


def stdout() -> "Console":
    """Return the console for data: as wide as the terminal or as ``COLUMNS`` says; a pipe and a file have no width."""
    from studyctl.report.console import TextConsole

    console, columns = TextConsole(), os.environ.get("COLUMNS", "")
    if not console.file.isatty() and not (columns.isdigit() and int(columns)):
        console.width = ENDLESS
    return console


def print_json(value: Any) -> None:
    """Print a value as JSON, which has escapes of its own for characters that the stream cannot hold."""
    plain = not sys.stdout.encoding.lower().startswith("utf")
    sys.stdout.write(escaped_json(json.dumps(value, ensure_ascii=plain, indent=2, default=str)) + "\n")

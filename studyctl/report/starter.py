"""``studyctl init``: says what lies in a folder, and writes a spec for it."""

import json
import re
import sys
from pathlib import Path
from shlex import quote

from rich.console import Console

from studyctl.errors import SpecError, StudyError
from studyctl.files import write_atomic
from studyctl.plan.contents import Contents, look
from studyctl.plan.preview import preview
from studyctl.plan.starter import starter
from studyctl.report.problems import draw
from studyctl.spec.loading import load_spec
from studyctl.spec.schema import json_schema

SPEC, SCHEMA = "study.toml", "study.schema.json"
"""What is written; the schema lets editors complete and check keys."""


def write_starter(folder: Path, console: Console, *, yes: bool) -> None:
    """Write a spec and its schema into a folder, and check it.

    Args:
        folder: where models and texts are.
        console: where it is said what was seen.
        yes: do not ask.

    Raises:
        SpecError: there is no such folder, it has a spec already, or the one that was written has problems.
        StudyError: the folder cannot be read or written.
    """
    if not folder.is_dir():
        raise SpecError(f"there is no folder `{folder}`", hint="name the folder of your models and texts")
    target = folder / SPEC
    if target.exists():
        raise SpecError(f"`{target}` exists already", hint=f"`studyctl edit {quote(str(target))}` opens it")
    contents = look(folder)
    _describe(contents, console)
    if (
        not yes
        and sys.stdin.isatty()
        and input(f"write {target}? [Y/n] ").strip().lower() not in ("", "y", "yes")
    ):
        return
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.")[:100] or "study"
    try:
        write_atomic(folder / SCHEMA, json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
        write_atomic(target, f"#:schema ./{SCHEMA}\n{starter(name, contents)}\n")
    except OSError as error:
        raise StudyError(f"`{folder}` cannot be written: {error.strerror or error}") from error
    shown = preview(load_spec(target))
    console.print(f"wrote {target} and {SCHEMA}", soft_wrap=True)
    if shown.errors:
        raise SpecError(shown.problems)
    draw(shown.problems, console)
    console.print(f"next: studyctl plan {quote(str(target))}", soft_wrap=True)


def _describe(contents: Contents, console: Console) -> None:
    for model in contents.models:
        example = ": an example, no model here can be used" if contents.is_example else ""
        console.print(f"model {model}{example}", soft_wrap=True)
    for purpose, texts in contents.texts.items():
        for language, entry in texts.items():
            field = f", field {entry.field}" if entry.field is not None else ""
            console.print(f"text for {purpose} in {language}: {entry.file}{field}", soft_wrap=True)
    for task, own in contents.tasks.items():
        language = f" ({own.language})" if own.language is not None else ""
        console.print(f"task {task}{language}: {own.file}", soft_wrap=True)
    for text in contents.left:
        console.print(f"left out: {text}", soft_wrap=True)

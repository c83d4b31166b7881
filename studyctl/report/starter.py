"""``studyctl init``: says what lies in a folder, and writes a spec for it."""

import json
import re
import sys
from pathlib import Path

from rich.console import Console

from studyctl.errors import SpecError, StudyError
from studyctl.files import write_atomic
from studyctl.plan.preview import preview
from studyctl.plan.starter import Contents, look, starter
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
        SpecError: there is no such folder, or it has a spec already.
        StudyError: it cannot be written.
    """
    if not folder.is_dir():
        raise SpecError(f"there is no folder `{folder}`", hint="name the folder of your models and texts")
    target = folder / SPEC
    if target.exists():
        raise SpecError(f"`{target}` exists already", hint=f"`studyctl edit {target}` opens it")
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
    console.print(f"wrote {target} and {SCHEMA}; next: studyctl plan {target}", soft_wrap=True)
    if problems := preview(load_spec(target)).problems:
        draw(problems, console)


def _describe(contents: Contents, console: Console) -> None:
    for model in contents.models:
        console.print(f"model {model}", soft_wrap=True)
    for purpose, texts in contents.texts.items():
        for language, entry in texts.items():
            field = f", field {entry.field}" if entry.field is not None else ""
            console.print(f"text for {purpose} in {language}: {entry.file}{field}", soft_wrap=True)
    for task, own in contents.tasks.items():
        language = f" ({own.language})" if own.language is not None else ""
        console.print(f"task {task}{language}: {own.file}", soft_wrap=True)
    for text in contents.left:
        console.print(f"left out: {text}", soft_wrap=True)
    if not (contents.models or contents.texts or contents.tasks):
        console.print("no models, texts or tables of questions here: the spec is an example", soft_wrap=True)

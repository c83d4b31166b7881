"""``studyctl report STUDY -o FILE``: writes the report on a study's published results."""

from enum import StrEnum
from pathlib import Path

from studyctl.errors import StudyError, closest
from studyctl.files import StudyPaths, write_atomic
from studyctl.report.document import charts, html, markdown, tex
from studyctl.report.document.content import document
from studyctl.store import results as store


class Format(StrEnum):
    """How a report is written, by the suffix of its file."""

    HTML = ".html"
    TEX = ".tex"
    MARKDOWN = ".md"


_WRITERS = {Format.HTML: html.write, Format.TEX: tex.write, Format.MARKDOWN: markdown.write}


def write_report(paths: StudyPaths, output: Path, *, with_items: bool = False) -> None:
    """Write the report on a study; an existing file is replaced as a whole.

    Args:
        paths: files of the study.
        output: the file to write; its suffix says how.
        with_items: whether to list items that flipped.

    Raises:
        StudyError: the suffix is unknown, the folder is missing or cannot be written, nothing is measured, or a package for charts
            is missing; nothing is written.
    """
    kind = _format(output)
    if not output.parent.is_dir():
        raise StudyError(f"there is no folder {output.parent}", hint=f"`mkdir -p {output.parent}` makes it")
    if output.is_dir():
        raise StudyError(f"{output} is a folder", hint="name a file in it")
    if kind is Format.HTML:
        charts.check_installed()
    with store.open(paths) as results:
        content = document(results, with_items=with_items)
    text = _WRITERS[kind](content)
    try:
        write_atomic(output, text)
    except OSError as error:
        raise StudyError(
            f"cannot write {output}: {error.strerror}",
            file=output,
            hint="free some space, or name another folder",
        ) from error


def _format(output: Path) -> Format:
    suffix, formats = output.suffix, list(map(str, Format))
    if suffix.lower() in formats:
        return Format(suffix.lower())
    raise StudyError(
        f"{output} has {f'the suffix {suffix}' if suffix else 'no suffix'}; a report is written as {', '.join(formats)}",
        hint=f"name it {output.with_suffix(closest(suffix, formats) or Format.HTML)}",
    )

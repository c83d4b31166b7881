"""A report in Markdown as GitHub reads it. It has no charts: their figures are in its tables."""

import re
from collections.abc import Iterator

from studyctl.printable import on_one_line
from studyctl.report.document.model import Block, Document, Figure, Items, Paragraph, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&!@])")
"""Characters that may begin markup within a line."""
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)")
_START = re.compile(r"^(\d+)([.)])|^([-+=])")
"""What begins a list or underlines a heading at the start of a line."""


def write(document: Document) -> str:
    """Return the page."""
    parts = [f"# {_line(document.title)}", *map(_line, document.about)]
    for section in document.sections:
        parts.append(f"## {_line(section.title)}")
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    text = _SPECIAL.sub(r"\\\1", on_one_line(text).strip())
    return _LINK.sub(lambda match: f"{match[1] or match[3]}\\{match[2] or match[4]}", text)


def _line(text: str) -> str:
    return _START.sub(lambda match: f"{match[1] or ''}\\{match[2] or match[3]}", _text(text))


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield _line(text)
        case Items(texts, numbered):
            yield "\n".join(
                f"{f'{number}.' if numbered else '-'} {_line(text)}" for number, text in enumerate(texts, 1)
            )
        case Table(caption, columns, rows, notes):
            yield f"**{_text(caption)}**"
            rules = ("---:" if column.figures else "---" for column in columns)
            lines = [[_text(column.title) for column in columns], list(rules)]
            lines += [[_text(str(cell)) for cell in row] for row in rows]
            yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
            yield from map(_line, notes)
        case Figure():
            pass

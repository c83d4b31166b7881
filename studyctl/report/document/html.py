"""A report as one HTML page: style and charts are in it, it loads nothing and runs nothing."""

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from studyctl.printable import on_one_line
from studyctl.report.document.charts import svg
from studyctl.report.document.model import (
    Block,
    Cell,
    Document,
    Figure,
    Items,
    Panel,
    Paragraph,
    Section,
    Table,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing, whatever a text in it says."""
_SIZE = re.compile(
    r'<svg xmlns="[^"]*" xmlns:xlink="[^"]*" version="1.1" class="marks" width="([\d.]+)" height="[\d.]+"'
)
SIDE_BY_SIDE = 5
"""Columns with intervals that are side by side at most; of more, intervals are below their figures."""
TALL = ' class="tall"'
SHORT = 18
"""Characters of a row's name that stays on one line."""
WIDE = 420
"""Pixels from which on a chart has the whole width of the page."""


def write(document: Document) -> str:
    """Return the page."""
    title = _text(document.title)
    style = files("studyctl.report.document").joinpath("report.css").read_text("utf-8")
    contents = "".join(
        f'<a href="#s{number}">{_text(section.title)}</a>' for number, section in enumerate(document.sections)
    )
    about = "".join(f"<p>{_text(line)}</p>" for line in document.about)
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>",
        f"<header>\n<h1>{title}</h1>\n{about}\n<nav>{contents}</nav>\n</header>\n<main>",
        *(_section(number, section) for number, section in enumerate(document.sections)),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(lines)


def _text(text: str) -> str:
    return escape(on_one_line(text))


def _section(number: int, section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="s{number}">\n<h2>{_text(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Items(texts, numbered):
            tag = "ol" if numbered else "ul"
            entries = "".join(f"<li>{_text(text)}</li>" for text in texts)
            return f"<{tag}>{entries}</{tag}>"
        case Table():
            return "\n".join(_table(block))
        case Figure(caption, panels):
            drawn = "\n".join(map(_panel, panels))
            return f'<figure>\n<div class="panels">\n{drawn}\n</div>\n<figcaption>{_text(caption)}</figcaption>\n</figure>'


def _table(table: Table) -> Iterator[str]:
    caption = _text(table.caption)
    # A region that scrolls is reached by keyboard only if it can have the focus.
    yield f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
    intervals = max((sum(bool(cell.interval) for cell in row) for row in table.rows), default=0)
    yield f"<table{TALL if intervals > SIDE_BY_SIDE else ''}>\n<caption>{caption}</caption>"
    kinds = ["" if column.figures else ' class="words"' for column in table.columns]
    heads = (
        f'<th scope="col"{kind}>{_text(column.title)}</th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    yield f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>"
    for name, *cells in table.rows:
        short = ' class="short"' if len(name.text) <= SHORT else ""
        fields = (f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(cells, kinds[1:], strict=True))
        yield f'<tr><th scope="row"{short}>{_cell(name)}</th>{"".join(fields)}</tr>'
    yield "</tbody>\n</table>\n</div>"
    yield from (f'<p class="note">{_text(note)}</p>' for note in table.notes)


def _cell(cell: Cell) -> str:
    text = _text(cell.marked)
    if cell.interval:
        text += f" <small>{_text(cell.interval)}</small>"
    return f'<span class="unsure">{text}</span>' if cell.unsure else text


def _panel(panel: Panel) -> str:
    title = _text(panel.title)
    drawn = svg(panel)
    width = float(match[1]) if (match := _SIZE.match(drawn)) else 0.0
    # The chart may shrink a little to fit a phone; below that it scrolls, so that its texts stay readable.
    size = f'style="width:100%;max-width:{width:.0f}px;min-width:{0.88 * width:.0f}px"'
    drawn = _SIZE.sub(lambda _: f'<svg role="img" aria-label="{title}" {size}', drawn, count=1)
    kind = "panel wide" if width > WIDE else "panel"
    return f'<div class="{kind}" tabindex="0"><h3>{title}</h3>\n{drawn}</div>'

r"""A report as LaTeX with booktabs tables, for pdfLaTeX, XeLaTeX, LuaLaTeX and Tectonic. Tables can be copied into a paper.

It has no charts: their figures are in its tables. A character that the engine's font does not have (pdfLaTeX: that is not Latin) is
printed as its code, ``[U+4E2D]``: nothing is left out, and nothing stops the compilation.
"""

import re
from collections.abc import Iterator, Sequence

from studyctl.printable import on_one_line
from studyctl.report.document.model import Block, Cell, Column, Document, Figure, Items, Paragraph, Table

PREAMBLE = r"""\documentclass[10pt,a4paper]{article}
\usepackage[margin=18mm]{geometry}
\usepackage{array,booktabs,iftex,longtable,xcolor}
\ifpdftex
  \usepackage[T1]{fontenc}
  \usepackage[utf8]{inputenc}
  \usepackage{lmodern}
  \newcommand\other[2]{[U+#1]\allowbreak}
\else
  \usepackage{fontspec}
  \newcommand\other[2]{\iffontchar\font"#1 #2\else[U+#1]\fi\allowbreak}
\fi
\newcommand\unsure[1]{\textcolor{black!60}{#1}}
\newcommand\interval[1]{{\scriptsize #1}}
\setlength\tabcolsep{3pt}
\setlength\LTleft{0pt}
\setlength\LTright{\fill}
\setlength\LTpre{2pt}
\setlength\LTpost{6pt}
\setlength\parindent{0pt}
\setlength\parskip{4pt}
\emergencystretch=3em
"""
ROOM = 108
"""Characters of a table's line that fit the page in its size of type."""
GAP = 2
"""Characters that the space between two columns takes."""
PAGE_ROWS = 40
"""Rows of a table that stays on one page."""
LONG = 30
"""Characters from which on a column of text is broken into lines."""
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_\allowbreak{}", "/": r"/\allowbreak{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}", "-": "{-}",
    "−": "$-$", "×": r"$\times$", "Δ": r"$\Delta$", "°": r"\textdegree{}", "·": r"$\cdot$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$",
    "±": r"$\pm$", "≈": r"$\approx$", "⏎": r"$\hookleftarrow$", "–": "--", "—": "---", "…": r"\dots{}", "“": "``", "”": "''", "’": "'", "\u00a0": "~",
}  # fmt: skip
r"""What stands for itself in no font or has a meaning in LaTeX. Brackets are the options of ``\\``, hyphens may be ligatures."""
_OTHER = re.compile(r"[^\x20-\x7eÀ-ÖØ-öø-ÿ]")


def write(document: Document) -> str:
    """Return the page."""
    lines = [PREAMBLE, r"\begin{document}", rf"{{\LARGE\bfseries\raggedright {_text(document.title)}\par}}"]
    lines += [rf"{{\small {_text(line)}\par}}" for line in document.about]
    for section in document.sections:
        lines.append(rf"\section*{{{_text(section.title)}}}")
        for block in section.blocks:
            lines += _block(block)
    return "\n".join([*lines, r"\end{document}", ""])


def _text(text: str) -> str:
    return "".join(map(_character, on_one_line(text)))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if _OTHER.match(character):
        return rf"\other{{{ord(character):04X}}}{{{character}}}"
    return character


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield _text(text) + "\n"
        case Items(texts, numbered):
            name = "enumerate" if numbered else "itemize"
            yield rf"\begin{{{name}}}"
            yield from (rf"\item {{}}{_text(text)}" for text in texts)
            yield rf"\end{{{name}}}"
        case Table():
            # Columns that do not fit go into another table, with the names of the rows again.
            for columns in _parts(block):
                yield from _table(block, columns)
            yield from (rf"{{\footnotesize {_text(note)}\par}}" for note in block.notes)
        case Figure():
            pass


def _parts(table: Table) -> list[list[int]]:
    """Return which columns go into each table, by their places; evenly, not six columns and one."""
    widths = [_width(table, place) for place in range(len(table.columns))]
    parts = _chunks(widths, len(widths))
    return _chunks(widths, -(-(len(widths) - 1) // len(parts))) if len(parts) > 1 else parts


def _chunks(widths: Sequence[float], most: int) -> list[list[int]]:
    """Return the columns but the first in parts that fit the page with the first, and have at most ``most``."""
    parts: list[list[int]] = [[]]
    free = ROOM - widths[0]
    for place, width in enumerate(widths[1:], 1):
        if parts[-1] and (width + GAP > free or len(parts[-1]) == most):
            parts.append([])
            free = ROOM - widths[0]
        parts[-1].append(place)
        free -= width + GAP
    return parts


def _width(table: Table, place: int) -> float:
    """Return the characters that a column takes; of a long text, the width at which it is broken."""
    column = table.columns[place]
    longest = max(1.1 * len(column.title), *(_cell_width(row[place]) for row in table.rows), 1)
    return longest if column.figures else min(longest, LONG)


def _cell_width(cell: Cell) -> float:
    return len(cell.marked) + 0.8 * len(cell.interval) + bool(cell.interval)


def _table(table: Table, places: Sequence[int]) -> Iterator[str]:
    chosen = [0, *places]
    widths = {place: _width(table, place) for place in chosen}
    broken = [place for place in chosen if _is_broken(table.columns[place], widths[place])]
    free = ROOM - sum(width + GAP for width in widths.values())
    for place in broken:
        widths[place] += max(0.0, free) / len(broken)
    kinds = "".join(_kind(table.columns[place], width) for place, width in widths.items())
    heads = " & ".join(rf"\textbf{{{_text(table.columns[place].title)}}}" for place in chosen)
    rows = [rf"{' & '.join(_cell(row[place]) for place in chosen)} \\" for row in table.rows]
    yield rf"{{\footnotesize\medskip\textbf{{{_text(table.caption)}}}\par\nobreak"
    if len(rows) > PAGE_ROWS or broken:
        yield rf"\begin{{longtable}}{{@{{}}{kinds}@{{}}}}"
        yield from (rf"\toprule {heads} \\ \midrule \endhead", r"\bottomrule \endfoot", *rows)
        yield r"\end{longtable}}"
    else:  # its columns are right after one run
        yield rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}"
        yield from (rf"\toprule {heads} \\ \midrule", *rows, r"\bottomrule")
        yield r"\end{tabular}\par}"


def _is_broken(column: Column, width: float) -> bool:
    return not column.figures and width >= LONG


def _kind(column: Column, width: float) -> str:
    if column.figures:
        return "r"
    if _is_broken(column, width):
        return rf">{{\raggedright\arraybackslash}}p{{{(width + 1) / (ROOM + 10):.3f}\linewidth}}"
    return "l"


def _cell(cell: Cell) -> str:
    text = _text(cell.marked)
    if cell.interval:
        text += rf" \interval{{{_text(cell.interval)}}}"
    return rf"\unsure{{{text}}}" if cell.unsure else text

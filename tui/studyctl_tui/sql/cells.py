"""The text of the cells of a result, and the widths of its columns."""

import csv
import io
import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
from textual_fastdatatable import ArrowBackend

from studyctl.printable import on_one_line
from studyctl.report.tables import write_csv

NULL = "NULL"
MEASURED_ROWS = 1000
"""Rows that are measured of a column whose cells must be formatted for it."""
LONGEST = 500
"""Maximum characters of a cell; the width of its column usually cuts it before."""
WIDEST_FLOAT = len("-1.23457e-100")


def is_number(kind: pa.DataType) -> bool:
    """Whether a column has numbers; they are aligned right."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def cell_text(value: Any) -> str:
    """Return a value on one line: figures with six digits, lists and structs as JSON, NULL as such."""
    match value:
        case None:
            return NULL
        case str():
            return on_one_line(value[:LONGEST])
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat(sep=" ", timespec="milliseconds")
        case date() | time():
            return value.isoformat()
        case bytes():
            return value[: LONGEST // 2].hex()
        case list() | dict() | tuple():
            return on_one_line(json.dumps(value, ensure_ascii=False, default=_plain)[:LONGEST])
    return on_one_line(str(value)[:LONGEST])


def _plain(value: Any) -> float | str:
    return float(value) if isinstance(value, Decimal) else cell_text(value)


def row_texts(table: pa.Table, row: int) -> list[str]:
    """Return the cells of a row as an export writes them: NULL empty, figures in full."""
    return _texts(table.slice(row, 1))[1]


def tab_separated(cells: list[str]) -> str:
    """Return cells on one line with tabs between them; tabs and line breaks in a cell become blanks."""
    return "\t".join(" ".join(cell.split()) if "\t" in cell or "\n" in cell else cell for cell in cells)


def rows_as_text(table: pa.Table, most_bytes: int) -> tuple[str, int]:
    """Return a line of headers and the first rows that fit into so many bytes (UTF-8), and the number of these rows."""
    # a row has at least a byte a column, its tabs and line break: more rows than these cannot fit
    texts = _texts(table.slice(0, most_bytes // max(1, table.num_columns) + 1))
    lines: list[str] = []
    size = 0
    for cells in texts:
        line = tab_separated(cells) + "\n"
        size += len(line.encode())
        if size > most_bytes:
            break
        lines.append(line)
    return "".join(lines), max(0, len(lines) - 1)


def _texts(table: pa.Table) -> list[list[str]]:
    """Return the names of the columns, then the rows."""
    written = io.BytesIO()
    write_csv(table.to_reader(), written)
    return list(csv.reader(io.StringIO(written.getvalue().decode(errors="replace"), newline="")))


class Rows(ArrowBackend):  # type: ignore[misc]  # its types are not read
    """Rows as they are shown; :attr:`source_data` has them as they are."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table)
        self.numbers = [is_number(kind) for kind in table.schema.types]
        """Which columns are aligned right."""
        self._widths: list[int] = []

    @property
    def column_content_widths(self) -> list[int]:
        """Characters that each column needs."""
        return self._widths

    def measure(self) -> None:
        """Measure the columns; slow for a million rows, so call it in a thread."""
        self._widths = [_width(self, number) for number in range(self.column_count)]


def _width(rows: Rows, number: int) -> int:
    column = rows.data.column(number)
    kind = column.type
    least = len(NULL) if column.null_count else 0
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return max(least, int(ArrowBackend(pa.table({"": column})).column_content_widths[0]))
    shown = min(len(column), MEASURED_ROWS)
    if shown < len(column) and pa.types.is_floating(kind):
        least = WIDEST_FLOAT  # figures of later rows are not cut either
    return max([least, *(len(cell_text(rows.get_cell_at(row, number))) for row in range(shown))])

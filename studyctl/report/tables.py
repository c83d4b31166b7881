"""The rows of a query as a table, CSV, JSON or Parquet."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text
from typing_extensions import Buffer, override

from studyctl.printable import escaped_json, on_one_line

SHOWN_ROWS = 1000
"""Rows that a terminal table shows at most; the other formats write all."""
BATCH_ROWS = 10_000
"""Rows that are converted to Python objects at a time."""
GROUP_ROWS = 100_000
"""Rows of a group in a Parquet file."""


def write_csv(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    """Write CSV with a header: NULL as an empty field, NaN as ``nan``, lists and structs as JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # Before Python 3.13 the writer leaves a lone carriage return without quotes, and readers take it for the end of a row.
    all_in_quotes = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(rows.schema.names)
    for batch in rows:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            texts = [_csv_value(value) for value in row]
            (all_in_quotes if any("\r" in text for text in texts) else writer).writerow(texts)
        stream.write(buffer.getvalue().encode(errors="surrogatepass"))
        buffer.seek(0)
        buffer.truncate()
    stream.write(buffer.getvalue().encode(errors="surrogatepass"))


def write_json(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    """Write an array with one object per line: NULL, NaN and infinity as ``null``, timestamps in ISO 8601."""
    names = _unique_names(rows.schema)
    separator = b"[\n"
    for batch in rows:
        for record in batch.rename_columns(names).to_pylist():
            text = escaped_json(json.dumps(_json_value(record), ensure_ascii=False))
            stream.write(separator + text.encode())
            separator = b",\n"
    stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def write_parquet(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    """Write a Parquet file with the types of the columns."""
    names = _unique_names(rows.schema)
    fields = [field.with_name(name) for name, field in zip(names, rows.schema, strict=True)]
    with pq.ParquetWriter(_Pipe(stream), pa.schema(fields)) as writer:
        group: list[pa.RecordBatch] = []
        for batch in rows:
            group.append(batch.rename_columns(names))
            if sum(batch.num_rows for batch in group) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(group))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group))


class _Pipe(io.RawIOBase):
    """A stream with a position, which the Parquet writer asks for and a pipe does not have."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._written = stream, 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._written

    @override
    def write(self, data: Buffer, /) -> int:
        size = self._stream.write(data)
        self._written += size
        return size


def print_table(rows: pa.Table, console: Console) -> None:
    """Print rows as a table; nothing is cut.

    On a terminal these are the first :data:`SHOWN_ROWS`, one record after the other if they are wider than it. A pipe and a
    file have no width: they get all rows, one a line.
    """
    names = rows.schema.names
    if not names:
        return
    shown = rows.slice(0, SHOWN_ROWS) if console.is_terminal else rows
    widths = [cell_len(_cell(name)) for name in names]
    for batch in _cells(shown):
        widths = [max(width, *map(cell_len, column)) for width, column in zip(widths, batch, strict=True)]
    if shown.num_rows and console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.width:
        _print_records(shown, console)
    else:
        _print_lines(shown, widths, console)
    if (hidden := rows.num_rows - shown.num_rows) > 0:
        console.print(Text(f"… and {hidden} more rows; --format csv writes all", style="dim"))


def _print_lines(rows: pa.Table, widths: list[int], console: Console) -> None:
    right = [
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        for kind in rows.schema.types
    ]

    def line(cells: Sequence[str]) -> str:
        padding = [" " * (width - cell_len(cell)) for width, cell in zip(widths, cells, strict=True)]
        padded = [
            blanks + cell if is_right else cell + blanks
            for blanks, cell, is_right in zip(padding, cells, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    console.print(Text(line([_cell(name) for name in rows.schema.names]), style="bold"), soft_wrap=True)
    for batch in _cells(rows):
        console.print(Text("\n".join(map(line, zip(*batch, strict=True)))), soft_wrap=True)


def _print_records(rows: pa.Table, console: Console) -> None:
    names = [_cell(name) for name in rows.schema.names]
    label = max(map(cell_len, names))
    records = [record for batch in _cells(rows) for record in zip(*batch, strict=True)]
    for number, record in enumerate(records, 1):
        console.print(Text(f"── {number} ──", style="dim"))
        for name, cell in zip(names, record, strict=True):
            line = Text.assemble((set_cell_size(name, label), "bold"), f"  {cell}")
            console.print(line, soft_wrap=True)


def _cells(rows: pa.Table) -> Iterator[list[list[str]]]:
    """Yield the columns of some rows at a time, as they are shown."""
    for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
        yield [[_cell(value) for value in column.to_pylist()] for column in batch.columns]


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return on_one_line(_csv_value(value))


def _csv_value(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case float():
            return repr(value)
        case list() | dict():
            return json.dumps(_json_value(value), ensure_ascii=False)
    plain = _json_value(value)
    return plain if isinstance(plain, str) else str(plain)


def _json_value(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            # DuckDB's sums of integers are decimals without a fraction; as floats they would lose digits
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_json_value(item) for item in value]
        case dict():
            return {str(key): _json_value(item) for key, item in value.items()}
        case None | bool() | int() | str():
            return value
    return str(value)


def _unique_names(schema: pa.Schema) -> list[str]:
    """Return the names, equal ones (``select a.x, b.x``) numbered: objects and Parquet allow no duplicates."""
    names: list[str] = []
    seen: set[str] = set()
    for name in schema.names:
        unique, number = name, 1
        while unique in seen:
            unique, number = f"{name}_{number}", number + 1
        seen.add(unique)
        names.append(unique)
    return names

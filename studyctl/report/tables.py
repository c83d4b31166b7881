"""The rows of a query as a table, CSV, JSON or Parquet."""

import csv
import io
import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from studyctl.printable import escaped_json, on_one_line

SHOWN_ROWS = 1000
"""Rows that a terminal table shows at most; the other formats write all."""
BATCH_ROWS = 10_000
"""Rows that are converted to Python objects at a time."""


def write_csv(rows: pa.Table, stream: BinaryIO) -> None:
    """Write CSV with a header: NULL as an empty field, NaN as ``nan``, lists and structs as JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # Before Python 3.13 the writer leaves a lone carriage return without quotes, and readers take it for the end of a row.
    all_in_quotes = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(rows.schema.names)
    for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            texts = [_csv_value(value) for value in row]
            (all_in_quotes if any("\r" in text for text in texts) else writer).writerow(texts)
        stream.write(buffer.getvalue().encode(errors="surrogatepass"))
        buffer.seek(0)
        buffer.truncate()
    stream.write(buffer.getvalue().encode(errors="surrogatepass"))


def write_json(rows: pa.Table, stream: BinaryIO) -> None:
    """Write an array with one object per line: NULL, NaN and infinity as ``null``, timestamps in ISO 8601."""
    rows = _with_unique_names(rows)
    separator = b"[\n"
    for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
        for record in batch.to_pylist():
            text = escaped_json(json.dumps(_json_value(record), ensure_ascii=False))
            stream.write(separator + text.encode())
            separator = b",\n"
    stream.write(b"\n]\n" if rows.num_rows else b"[]\n")


def write_parquet(rows: pa.Table, stream: BinaryIO) -> None:
    """Write a Parquet file with the types of the columns."""
    buffer = io.BytesIO()  # a pipe has no position, which the writer asks for
    pq.write_table(_with_unique_names(rows), buffer)
    stream.write(buffer.getbuffer())


def print_table(rows: pa.Table, console: Console) -> None:
    """Print rows as a table, or as one record after the other if they are wider than the terminal; nothing is cut."""
    names = list(map(on_one_line, rows.schema.names))
    if not names:
        return
    shown = rows.slice(0, SHOWN_ROWS)
    columns = [[_cell(value) for value in column.to_pylist()] for column in shown.columns]
    widths = [
        max([len(name), *(cell.cell_len for cell in cells)])
        for name, cells in zip(names, columns, strict=True)
    ]
    wide = console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.width
    if wide and shown.num_rows:
        _print_records(names, columns, console)
    else:
        numeric = [
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            for kind in rows.schema.types
        ]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for name, number, width in zip(names, numeric, widths, strict=True):
            table.add_column(Text(name), justify="right" if number else "left", no_wrap=True, min_width=width)
        for row in zip(*columns, strict=True):
            table.add_row(*row)
        console.print(
            table, width=max(console.width, sum(widths) + 2 * len(widths)), no_wrap=True, crop=False
        )
    if (hidden := rows.num_rows - shown.num_rows) > 0:
        console.print(Text(f"… and {hidden} more rows; --format csv writes all", style="dim"))


def _print_records(names: list[str], columns: list[list[Text]], console: Console) -> None:
    label = max(map(len, names))
    for number, row in enumerate(zip(*columns, strict=True), 1):
        console.print(Text(f"── {number} ──", style="dim"))
        for name, cell in zip(names, row, strict=True):
            console.print(Text.assemble((f"{name:<{label}}", "bold"), "  ", cell), soft_wrap=True)


def _cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, float) and math.isfinite(value):
        return Text(f"{value:.6g}")
    return Text(on_one_line(_csv_value(value)))


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


def _with_unique_names(rows: pa.Table) -> pa.Table:
    """Rename columns with equal names (``select a.x, b.x``), since objects and Parquet allow no duplicates."""
    seen: set[str] = set()
    names = []
    for name in rows.schema.names:
        unique, number = name, 1
        while unique in seen:
            unique, number = f"{name}_{number}", number + 1
        seen.add(unique)
        names.append(unique)
    return rows.rename_columns(names)

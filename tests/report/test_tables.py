"""The rows of a query in each format: nothing is lost, nothing is invented."""

import csv
import io
import json
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from studyctl.report.tables import SHOWN_ROWS, print_table, write_csv, write_json, write_parquet

ROWS = pa.table(
    {
        "text": ["a,b", 'say "hi"\nthere', None],
        "number": pa.array([1, 2**53 + 1, None], pa.int64()),
        "real": [0.1, float("nan"), float("inf")],
        "exact": pa.array([Decimal("12345678901234567890"), Decimal("3"), None], pa.decimal128(38, 0)),
        "at": pa.array([datetime(2026, 1, 2, 3, 4, 5), None, None], pa.timestamp("us")),  # noqa: DTZ001
        "values": [[1.5, float("nan")], [], None],
        "flag": [True, False, None],
    }
)


def written(write: object, rows: pa.Table = ROWS) -> bytes:
    stream = io.BytesIO()
    write(rows.to_reader(), stream)  # type: ignore[operator]
    return stream.getvalue()


def test_csv() -> None:
    header, first, second, third = csv.reader(io.StringIO(written(write_csv).decode()))
    assert header == ROWS.schema.names
    assert first == ["a,b", "1", "0.1", "12345678901234567890", "2026-01-02T03:04:05", "[1.5, null]", "true"]
    assert second == ['say "hi"\nthere', str(2**53 + 1), "nan", "3", "", "[]", "false"]
    assert third == ["", "", "inf", "", "", "", ""]


def test_json_is_an_array_of_objects() -> None:
    data = written(write_json)
    first, second, third = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert first == {
        "text": "a,b", "number": 1, "real": 0.1, "exact": 12345678901234567890, "at": "2026-01-02T03:04:05",
        "values": [1.5, None], "flag": True,
    }  # fmt: skip
    assert second["number"] == 2**53 + 1
    assert second["real"] is None
    assert set(third.values()) == {None}
    assert data.count(b"\n") == 5


def test_parquet_keeps_the_types() -> None:
    assert pq.read_table(io.BytesIO(written(write_parquet))).schema == ROWS.schema


@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet])
def test_no_rows(write: object) -> None:
    data = written(write, ROWS.slice(0, 0))
    if write is write_json:
        assert json.loads(data) == []
    if write is write_csv:
        assert data.decode() == ",".join(ROWS.schema.names) + "\n"


def test_columns_of_one_name_are_told_apart() -> None:
    twice = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "x", "x_1"])
    assert json.loads(written(write_json, twice)) == [{"x": 1, "x_1": 2, "x_1_1": 3}]
    assert pq.read_table(io.BytesIO(written(write_parquet, twice))).num_columns == 3
    assert written(write_csv, twice).decode() == "x,x,x_1\n1,2,3\n"


class TestTable:
    def shown(self, rows: pa.Table, width: int = 80, *, terminal: bool = False) -> str:
        console = Console(width=width, file=io.StringIO(), force_terminal=terminal, no_color=True)
        print_table(rows, console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    def test_figures_are_whole(self) -> None:
        lines = self.shown(ROWS.select(["number", "real", "exact"])).splitlines()
        assert [line.split() for line in lines] == [
            ["number", "real", "exact"],
            ["1", "0.1", "12345678901234567890"],
            ["9007199254740993", "nan", "3"],
            ["NULL", "inf", "NULL"],
        ]

    def test_markup_in_data_is_text(self) -> None:
        assert "[red]x[/red]" in self.shown(pa.table({"[b]": ["[red]x[/red]"]}))

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        assert "\x1b" not in self.shown(pa.table({"x": ["\x1b[31mred"]}))

    def test_wide_rows_are_shown_one_below_the_other_on_a_terminal(self) -> None:
        rows = pa.table({f"column_{number}": [f"value {number}"] for number in range(20)})
        text = self.shown(rows, terminal=True)
        assert "column_19" in text
        assert "value 19" in text
        assert "…" not in text
        assert max(map(len, self.shown(rows, terminal=False).splitlines())) > 80

    def test_a_terminal_gets_the_first_rows_and_how_many_more_there_are(self) -> None:
        rows = pa.table({"x": range(SHOWN_ROWS + 5)})
        *_, last, more = self.shown(rows, terminal=True).splitlines()
        assert last.endswith(str(SHOWN_ROWS - 1))
        assert "… and 5 more rows; --format csv writes all" in more
        assert self.shown(rows).splitlines()[-1].endswith(str(SHOWN_ROWS + 4)), "a pipe gets all"

    def test_columns_are_aligned_by_the_cells_of_a_terminal(self) -> None:
        """Chinese characters take two."""
        rows = pa.table({"语言": ["中文", "en"], "n": [1, 20]})
        assert self.shown(rows) == "语言   n\n中文   1\nen    20\n"

    def test_the_header_of_a_wide_table_without_rows_is_whole(self) -> None:
        rows = pa.table({f"column_{number}": pa.array([], pa.string()) for number in range(20)})
        assert self.shown(rows, terminal=True).count("column_") == 20

    def test_no_columns(self) -> None:
        assert self.shown(pa.table({})) == ""

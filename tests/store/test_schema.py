"""The tables of what a worker recorded have the fields of its records."""

import duckdb
import pytest
from msgspec import structs

from studyctl.contract.records import FidelityTotals, Layer, Record, TaskFigure, TextTotals, Window
from studyctl.store.schema import LEAD, create_schema


@pytest.mark.parametrize(
    ("table", "record", "more"),
    [
        ("layers", Layer, set()),
        ("windows", Window, {"place"}),
        ("perplexity", TextTotals, set()),
        ("fidelity", FidelityTotals, set()),
        ("tasks", TaskFigure, {"language"}),
    ],
)
def test_a_table_has_the_fields_of_its_record(table: str, record: type[Record], more: set[str]) -> None:
    with duckdb.connect() as connection:
        create_schema(connection)
        columns = set(connection.table(table).columns) - set(LEAD)
    fields = {field.name for field in structs.fields(record)} - {
        field.name for field in structs.fields(Record)
    }
    assert columns == fields | more

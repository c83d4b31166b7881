"""The tables of what a worker recorded have the fields of its records."""

import pytest
from msgspec import structs

from studyctl.contract.records import FidelityTotals, Layer, Record, TaskFigure, TextTotals, Window
from studyctl.store.schema import FIDELITY, LAYERS, LEAD, PERPLEXITY, TASKS, WINDOWS, Table


@pytest.mark.parametrize(
    ("table", "record", "more"),
    [
        (LAYERS, Layer, set()),
        (WINDOWS, Window, {"place"}),
        (PERPLEXITY, TextTotals, set()),
        (FIDELITY, FidelityTotals, set()),
        (TASKS, TaskFigure, set()),
    ],
    ids=lambda value: value.name if isinstance(value, Table) else "",
)
def test_a_table_has_the_fields_of_its_record(table: Table, record: type[Record], more: set[str]) -> None:
    columns = {column.name for column in table.columns if column not in LEAD}
    fields = {field.name for field in structs.fields(record)} - {
        field.name for field in structs.fields(Record)
    }
    assert columns == fields | more

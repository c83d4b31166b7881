"""Figures with their intervals: what is read in a table."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from studyctl.report.effects import Effect, Form, effect
from studyctl.report.layout import Column, print_tables
from studyctl.store.results import Standing


@pytest.mark.parametrize(
    ("effect", "whole", "short", "plain"),
    [
        (Effect(0.31, 0.285, 0.335, signed=True), "+0.310 ±0.025", "+0.31±0.03", "+0.310"),
        (Effect(-0.0184, -0.0724, 0.0356, signed=True), "≈−0.018 ±0.054", "≈−0.02±0.05", "≈−0.018"),
        (Effect(0.004, 0.003, 0.005, signed=True), "+0.004 ±0.001", "+0.004±0.001", "+0.004"),
        (Effect(1.426, 1.389, 1.463, 1.0), "1.426 ±0.037", "1.43±0.04", "1.426"),
        (Effect(1.002, 0.99, 1.014, 1.0), "≈1.002 ±0.012", "≈1.00±0.01", "≈1.002"),
        (Effect(45.0, 43.0, 47.0, 1.0), "45.00 ±2.00", "45.00±2.00", "45.00"),
    ],
)
def test_half_widths(effect: Effect, whole: str, short: str, plain: str) -> None:
    assert [effect.text(form).plain for form in Form] == [whole, short, plain]


def test_a_lopsided_interval_has_its_ends() -> None:
    wide = Effect(2.814, 2.06, 3.844, 1.0, prefix="×")
    assert wide.text().plain == "×2.814 [2.060, 3.844]"
    assert wide.text(Form.SHORT).plain == "×2.81±0.89", "short of digits, about as far on both sides will do"
    assert Effect(2.8, 2.5, 3.844).text(Form.SHORT).plain == "2.80 [2.50, 3.84]"


def test_a_half_width_never_says_other_than_the_mark() -> None:
    """-0.167 ± 0.176 would hold no change; the interval, which is not quite even, does not."""
    assert Effect(-0.167, -0.359, -0.006, signed=True).text().plain == "−0.167 [−0.359, −0.006]"


def test_a_ratio_beyond_all_bounds_has_its_ends() -> None:
    assert Effect(3.2e9, 2.9e9, 3.5e9, 1.0).text().plain == "3.2e+09 [2.9e+09, 3.5e+09]"


def test_a_small_kl_keeps_two_digits() -> None:
    assert [Effect(0.00074, 0.0007, 0.00078).text(form).plain for form in (Form.WHOLE, Form.SHORT)] == [
        "0.00074 ±0.00004",
        "0.00074±0.00004",
    ]
    assert Effect(0.0032).text(Form.SHORT).plain == "0.0032"


@pytest.mark.parametrize("form", Form)
def test_without_an_interval_the_figure_is_plain(form: Form) -> None:
    alone = Effect(0.25, signed=True)
    assert alone.text(form).plain.startswith("+0.25")
    assert not {*"±[≈"} & set(alone.text(form).plain)
    assert (alone.is_unsure, alone.has_interval, alone.ends()) == (False, False, "")
    assert Effect(None).text(form).plain == "–"


def test_only_what_may_be_no_change_is_grey() -> None:
    assert Effect(0.1, -0.1, 0.3).text().style == "dim"
    assert Effect(0.1, 0.0, 0.2).text().style == "dim", "an end at no change does not exclude it"
    assert Effect(0.1, 0.05, 0.15).text().style == ""
    assert Effect(1.1, 0.9, 1.3, 1.0).text().style == "dim"


def test_fields_of_results_find_their_ends_and_what_no_change_is() -> None:
    row = Standing(**dict.fromkeys(Standing._fields))._replace(
        ppl_ratio=1.2,
        ppl_ratio_low=1.1,
        ppl_ratio_high=1.3,
        acc_change=-0.1,
        acc_change_low=-0.3,
        acc_change_high=0.1,
    )
    assert effect(row, "ppl_ratio").text().plain == "1.200 ±0.100"
    assert effect(row, "acc_change").text().plain == "≈−0.100 ±0.200"
    assert effect(row, "acc_change").ends() == "−0.300 to +0.100"
    assert not effect(row, "top1").has_interval, "it has none in the results"


class TestColumns:
    """Digits go before columns go into another table."""

    @staticmethod
    def printed(width: int, forms: list[Form]) -> list[str]:
        console = Console(width=width, file=io.StringIO())
        cells, *shorter = [[Effect(0.31, 0.285, 0.335, signed=True).text(form)] for form in forms]
        columns = [Column(name, cells, shorter=tuple(shorter)) for name in ("en", "sw")]
        print_tables(console, "variant", [Text("wanda-0.5")], columns)
        return [line for line in console.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("width", "cells"),
        [(60, "+0.310 ±0.025"), (36, "+0.31±0.03"), (32, "+0.310")],
        ids=["60", "36", "32"],
    )
    def test_as_few_as_needed(self, width: int, cells: str) -> None:
        header, row = self.printed(width, list(Form))
        assert header.split() == ["variant", "en", "sw"]
        assert row.split("  ") == ["wanda-0.5", cells, cells]

    def test_none_where_that_saves_no_table(self) -> None:
        lines = self.printed(30, [Form.WHOLE, Form.SHORT])
        assert [line.split() for line in lines] == [
            ["variant", "en"], ["wanda-0.5", "+0.310", "±0.025"], ["variant", "sw"], ["wanda-0.5", "+0.310", "±0.025"]
        ]  # fmt: skip

"""Completion in queries: what is offered at the cursor, which is ``|`` in these texts."""

import pytest

from studyctl.completions import Completions
from studyctl.sql.completion import MOST, Catalog, complete
from studyctl.sql.questions import Question, questions
from studyctl.sql.vocabulary import Function, Vocabulary, quoted, vocabulary
from studyctl.store.session import CatalogColumn, CatalogTable


def table(name: str, *columns: str, view: bool = False) -> CatalogTable:
    return CatalogTable(
        name, view, f"about {name}", 1, tuple(CatalogColumn(column, "DOUBLE", "") for column in columns)
    )


WORDS = Vocabulary(
    reserved=(
        "and",
        "as",
        "by",
        "case",
        "desc",
        "from",
        "group",
        "not",
        "null",
        "order",
        "select",
        "where",
        "window",
    ),
    keywords=("cast", "language", "nulls", "over", "value"),
    functions=(
        Function("arg_max", False, ("arg", "val"), "The row of the largest."),
        Function("avg", False, ("x",), ""),
        Function("range", True, ("stop",), ""),
    ),
)
CATALOG = Catalog(
    (
        table("scores", "variant", "acc", "window", view=True),
        table("texts", "variant", "language", "ppl"),
        table("Odd Table", "Top 1"),
    ),
    WORDS,
)


def offered(marked: str) -> Completions:
    before, _, after = marked.partition("|")
    row = before.count("\n")
    return complete(before + after, row, len(before) - before.rfind("\n") - 1, CATALOG)


def labels(marked: str) -> list[str]:
    return [item.label for item in offered(marked).items]


def written(marked: str) -> str:
    """Return the line after the first item was chosen."""
    before, _, after = marked.partition("|")
    line = (before + after).split("\n")[before.count("\n")]
    completions = offered(marked)
    return line[: completions.start] + completions.items[0].insert + line[completions.end :]


class TestPlaces:
    def test_a_statement_begins_with_a_keyword(self) -> None:
        assert labels("|")[:3] == ["select", "from", "with"]
        assert labels("select 1; wh|") == ["where"]

    @pytest.mark.parametrize(
        "text", ["from |", "select 1 from |", "from texts, |", "from texts join |", "describe |"]
    )
    def test_where_a_table_is_due_come_tables_and_functions_with_rows(self, text: str) -> None:
        assert labels(text) == ["scores", "texts", "Odd Table", "range"]

    def test_columns_of_the_tables_of_the_query_come_first_then_functions_and_keywords(self) -> None:
        assert labels("select | from texts")[:7] == [
            "variant", "language", "ppl", "texts", "arg_max", "avg", "and",
        ]  # fmt: skip
        assert labels("select * from texts where |")[:3] == ["variant", "language", "ppl"]
        assert labels("from texts select |")[:3] == ["variant", "language", "ppl"]

    def test_columns_of_other_tables_come_last(self) -> None:
        assert labels("select a| from texts") == ["arg_max", "avg", "and", "as", "acc"]
        assert offered("select ac| from texts").items[0].note == "of scores"

    def test_without_a_table_all_columns_are_offered_each_once(self) -> None:
        assert labels("select |")[:6] == ["variant", "acc", "window", "language", "ppl", "Top 1"]
        assert offered("select |").items[0].note == "of scores, texts"

    @pytest.mark.parametrize(
        ("text", "items"),
        [
            ("select acc fr|", ["from"]),
            ("select avg(acc) fr|", ["from"]),
            ("select * fr|", ["from"]),
            ("select acc from scores wh|", ["where", "when"]),
            ("select acc from scores s gr|", ["group by"]),
            ("select language fr|", ["from"]),  # a keyword, but a column here
            ("select 1 as value fr|", ["from"]),
            ("select acc from scores order by acc de|", ["desc"]),
            ("select acc from scores group b|", ["between", "by"]),
            ("select acc from scores sc|", []),  # the beginning of a new name
        ],
    )
    def test_after_a_name_or_a_value_only_keywords_go_on(self, text: str, items: list[str]) -> None:
        assert labels(text) == items

    @pytest.mark.parametrize(
        "text",
        ["select acc as ac|", "with sc|", "with a as (from texts), sc|", "select acc::va|", "select 1|"],
    )
    def test_where_a_new_name_a_type_or_a_number_is_due_nothing_is_offered(self, text: str) -> None:
        assert labels(text) == []

    @pytest.mark.parametrize(
        "text",
        [
            "select 'ac|' from scores",
            "select 'it''s ac|",
            "select 'ac|",
            r"select e'\' ac|'",
            "select $$ ac| $$",
            "-- ac|",
            "select 1 -- ac|\nfrom scores",
            "select /* ac| */ 1",
            "/* ac|",
        ],
    )
    def test_in_strings_and_comments_nothing_is_offered(self, text: str) -> None:
        assert labels(text) == []

    @pytest.mark.parametrize(
        "text",
        [
            "select 'it''s', ac| from scores",
            r"select 'a\', ac| from scores",
            "select '' < ac| from scores",
            "select $$'$$, ac| from scores",
            "-- from texts\nselect ac| from scores",
            "select /* from */ ac| from scores",
        ],
    )
    def test_behind_them_it_goes_on(self, text: str) -> None:
        assert labels(text) == ["acc"]


class TestTables:
    @pytest.mark.parametrize(
        ("text", "items"),
        [
            ("select t.| from texts t", ["variant", "language", "ppl"]),
            ("select T.l| from texts as t", ["language"]),
            ("select texts.| from texts", ["variant", "language", "ppl"]),
            ("select s.| from texts t join scores s on s.variant = t.variant", ["variant", "acc", "window"]),
            ("select t.| from main.texts t", ["variant", "language", "ppl"]),
            ("select x.| from texts t", []),
            ("select texts.|", ["variant", "language", "ppl"]),
            (
                "select t.|",
                ["variant", "acc", "window", "language", "ppl", "Top 1"],
            ),  # FROM is still to be written
            ("select r.| from range(3) r(n)", ["n"]),
            ('select "a b".| from texts "a b"', ["variant", "language", "ppl"]),
            ("select t.| from 'texts.csv' t", []),
        ],
    )
    def test_a_dot_brings_the_columns_of_its_table(self, text: str, items: list[str]) -> None:
        assert labels(text) == items

    def test_tables_of_a_join_come_in_their_order(self) -> None:
        assert labels("select | from texts t, scores")[:7] == [
            "variant", "language", "ppl", "acc", "window", "t", "scores",
        ]  # fmt: skip

    def test_a_subquery_knows_its_own_tables_first_then_those_around_it(self) -> None:
        text = "select * from texts t where exists (select 1 from scores where |)"
        assert labels(text)[:5] == ["variant", "acc", "window", "language", "ppl"]
        assert labels("select | from texts where exists (select 1 from scores)")[2] == "ppl"

    def test_what_a_subquery_makes_are_columns(self) -> None:
        text = (
            "select s.| from (select variant v, acc, avg(acc) as mean, t.ppl, 1 + 1 from scores, texts t) s"
        )
        assert labels(text) == ["v", "acc", "mean", "ppl"]
        assert labels("select s.| from (from texts) s") == ["variant", "language", "ppl"]
        assert labels("select s.| from (select * exclude (ppl), t.ppl as p from texts t) s") == [
            "variant", "language", "p",
        ]  # fmt: skip

    def test_what_with_defines_is_a_table(self) -> None:
        text = (
            "with best as (select variant, max(acc) as top from scores), b2(x) as materialized (from best) "
        )
        assert labels(text + "from |")[:2] == ["best", "b2"]
        assert labels(text + "select b.| from best b") == ["variant", "top"]
        assert labels(text + "select b2.| from b2") == ["x"]
        assert labels("with a as (select acc from scores), b as (select | from a)")[0] == "acc"
        assert (
            labels("with a as (select acc as top from scores) select t|")[0] == "top"
        )  # FROM is still to be written

    def test_names_that_the_query_gives_can_be_used(self) -> None:
        assert labels("select acc as mine from scores order by mi|") == ["mine"]

    def test_each_query_of_a_union_has_its_own_tables(self) -> None:
        assert labels("select acc from scores union all select p| from texts")[0] == "ppl"
        assert labels("select a| from scores union select ppl from texts")[0] == "acc"

    def test_each_statement_has_its_own_tables(self) -> None:
        assert labels("select acc from scores; select | from texts; from scores")[:3] == [
            "variant",
            "language",
            "ppl",
        ]
        assert labels("select ';'; select p| from texts") == ["ppl"]

    def test_distinct_from_is_no_table(self) -> None:
        assert labels("select * from texts where ppl is not distinct from pp|") == ["ppl"]

    @pytest.mark.parametrize(
        "text",
        [
            "select (p| from texts",
            "select avg(p| from texts",
            "select p|) from texts",
            "select [p| from texts",
            "from texts where (variant = 1 and p|",
        ],
    )
    def test_half_written_brackets_do_no_harm(self, text: str) -> None:
        assert "ppl" in labels(text)

    @pytest.mark.parametrize("question", questions(), ids=lambda question: question.title)
    def test_a_query_can_be_cut_anywhere(self, question: Question) -> None:
        for end in range(0, len(question.sql), 5):
            labels(question.sql[:end] + "|")
            labels(question.sql[:end] + "|" + question.sql[end:])


class TestWords:
    def test_names_that_contain_what_is_typed_come_after_those_that_begin_with_it(self) -> None:
        catalog = Catalog((table("t", "worst_language", "language", "languages"),), WORDS)
        items = complete("select lang from t", 0, 11, catalog).items
        assert [item.label for item in items] == ["language", "languages", "worst_language"]

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("select ac| from scores", "select acc from scores"),
            ("select a|c from scores", "select acc from scores"),  # the whole word is replaced
            ("select\n  win| from scores", '  "window" from scores'),
            ('select "win| from scores', 'select "window" from scores'),
            ('select s."win|" from scores s', 'select s."window" from scores s'),
            ("from od|", 'from "Odd Table"'),
            ("select av|", "select avg("),
            ("SELECT AV|", "SELECT AVG("),
            ("SELECT acc FR|", "SELECT acc FROM"),
            ("SELECT AC| FROM scores", "SELECT acc FROM scores"),  # a name keeps its case
        ],
    )
    def test_what_is_written(self, text: str, line: str) -> None:
        assert written(text) == line

    def test_notes_say_what_it_is(self) -> None:
        assert offered("select arg|").items[0].note == "(arg, val)  The row of the largest."
        assert offered("from sc|").items[0].note == "view  about scores"
        assert offered("select ac| from scores").items[0].note == "double"

    def test_there_is_an_end_to_the_list(self) -> None:
        many = Catalog((table("t", *(f"c{number}" for number in range(MOST + 5))),), WORDS)
        assert len(complete("select  from t", 0, 7, many).items) == MOST


class TestVocabulary:
    def test_it_is_duckdbs(self) -> None:
        words = vocabulary()
        assert {"select", "qualify", "pivot"} <= set(words.reserved)
        assert {"exclude", "nulls"} <= set(words.keywords)
        functions = {(function.name, function.rows): function for function in words.functions}
        assert functions["arg_max", False].parameters[:2] == ("arg", "val")
        assert ("unnest", False) in functions or ("unnest", True) in functions
        assert ("range", True) in functions
        assert words.functions.index(functions["count", False]) < words.functions.index(
            functions["abs", False]
        )
        assert not any(name.startswith("__") or not name.isidentifier() for name, _ in functions)

    def test_names_that_need_quotes_get_them(self) -> None:
        names = ("model", "window", "at", "language", "A b", 'x"y')
        assert [quoted(name) for name in names] == [
            "model",
            '"window"',
            '"at"',
            "language",
            '"A b"',
            '"x""y"',
        ]

"""Formatting a query: a clause a line, keywords in lower case, and nothing that it asks is changed."""

from collections.abc import Iterator

import pytest

from studyctl.errors import StudyError
from studyctl.sql import layout
from studyctl.sql.formatting import formatted
from studyctl.sql.questions import Question, questions
from studyctl.store import query
from studyctl.store.publish import publish
from studyctl.store.session import Session
from tests.store.builder import FakeStudy


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    study = FakeStudy(tmp_path_factory.mktemp("formatting") / "small").write_all()
    publish(study.paths)
    session = Session(study.paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(query._SETTINGS, "threads", 1)  # of several, the first to find equal rows wins
        yield session
    session.close()


def rows(session: Session, sql: str) -> tuple[list[str], str]:
    table = session.run(sql).table
    return table.column_names, repr(table.to_pylist())


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.title)
def test_a_formatted_question_has_the_same_rows(session: Session, question: Question) -> None:
    text = formatted(question.sql)
    assert rows(session, text) == rows(session, question.sql)
    assert formatted(text) == text
    assert max(map(len, text.splitlines())) <= 72


def test_each_clause_has_a_line_and_what_is_long_is_indented() -> None:
    sql = (
        "SELECT l.variant, (SELECT count(*) FROM flips f WHERE f.model = l.model) AS flips, l.model FROM leaderboard l "
        "JOIN trials t USING (trial_id) WHERE l.acc > 0.1 AND t.backend = 'studyctl' ORDER BY l.acc DESC NULLS LAST;"
    )
    assert formatted(sql).splitlines() == [
        "select",
        "    l.variant,",
        "    (select count(*) from flips f where f.model = l.model) as flips,",
        "    l.model",
        "from leaderboard l",
        "join trials t using (trial_id)",
        "where l.acc > 0.1 and t.backend = 'studyctl'",
        "order by l.acc desc nulls last;",
    ]


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("FROM trials SELECT a", "from trials\nselect a"),
        ("select * EXCLUDE (a) REPLACE (b+1 as b) from t", "select * exclude (a) replace (b + 1 as b)\nfrom t"),
        ("select a from t QUALIFY row_number() over () = 1", "select a\nfrom t\nqualify row_number() over () = 1"),
        ("select list_filter(l, x->x>1), l[1:2]", "select list_filter(l, x -> x > 1), l[1:2]"),
        ("select list_filter(l, LAMBDA x:x>1)", "select list_filter(l, lambda x: x > 1)"),
        ("select {'a':1,'b':{'c':2}}, MAP {'a':1}", "select {'a': 1, 'b': {'c': 2}}, map{'a': 1}"),
        ("select 7//2, 2**3, a::DOUBLE, cast(a AS INT)", "select 7 // 2, 2 ** 3, a::double, cast(a as int)"),
        ("pivot t on a using first(b) order by c", "pivot t on a\nusing first(b)\norder by c"),
        ("select columns(c->c like 'a%') from t", "select columns(c -> c like 'a%')\nfrom t"),
        ("create temp table x as select 1", "create temp table x as select 1"),
        ("DESCRIBE trials", "describe trials"),
        ("select 1;select 2", "select 1;\nselect 2"),
    ],
)  # fmt: skip
def test_duckdbs_syntax_survives(sql: str, text: str) -> None:
    assert formatted(sql) == text


def test_strings_and_names_stay_as_they_are() -> None:
    sql = r"""select 'it''s -- {{ NOT }} a\' as Name, "Group By", e'\'' as Year, $$ SELECT  x $$, MAX(Foo) from T"""
    assert formatted(sql).replace("\n", " ").replace("    ", "") == sql.replace("select ", "select ", 1)


def test_comments_stay() -> None:
    sql = "-- of one trial\nselect a -- the first\n, b /* second */ from t -- the end\n;"
    assert formatted(sql).splitlines() == [
        "-- of one trial",
        "select",
        "    a,  -- the first",
        "    b  /* second */",
        "from t  -- the end",
        ";",
    ]
    long = f"-- {'a long remark ' * 10}".strip()
    assert formatted(f"{long}\nselect 1") == f"{long}\nselect 1"


@pytest.mark.parametrize("sql", ["", "  \n", "-- nothing but a remark"])
def test_where_there_is_no_query_nothing_changes(sql: str) -> None:
    assert formatted(sql) == sql


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("select a frm t where", (1, 14)),
        ("select 1;\nselect b from t)", (2, 16)),
        ("select 'abc", (1, 8)),
        ("select ü,\n'ü' 1", (2, 5)),
    ],
)
def test_what_duckdb_cannot_read_is_told_with_its_place(sql: str, place: tuple[int, int]) -> None:
    with pytest.raises(StudyError, match="Parser Error") as caught:
        formatted(sql)
    problem = caught.value.problems[0]
    assert (problem.line, problem.column) == place


def test_a_layout_that_would_change_the_query_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "laid_out", lambda sql: sql.replace("// 2", "-- 2"))
    with pytest.raises(StudyError, match="cannot be formatted"):
        formatted("select 7 // 2")

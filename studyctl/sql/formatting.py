"""Formatting of a query: layout and case of keywords. What it asks stays the same, which is checked."""

import re
from collections import Counter

import duckdb

from studyctl.errors import Problem, StudyError
from studyctl.store.query import placed


def formatted(sql: str) -> str:
    """Return a query with one clause a line and keywords in lower case; nothing but comments stays as it is.

    Raises:
        StudyError: DuckDB cannot read the query (the problem has the place), or it has syntax that cannot be formatted.
    """
    with duckdb.connect(":memory:") as connection:
        try:
            statements = connection.extract_statements(sql)
        except duckdb.Error as error:
            raise StudyError(placed(sql, str(error), hint="")) from error
    if not statements:
        return sql
    from sqlfmt.exception import SqlfmtError  # few queries are formatted

    from studyctl.sql.layout import laid_out

    try:
        text = laid_out(sql)
    except SqlfmtError as error:
        raise StudyError(CANNOT) from error
    if _tokens(text) != _tokens(sql):
        raise StudyError(CANNOT)
    return text


CANNOT = Problem("this query has syntax that cannot be formatted", hint="it runs as it is")


def _tokens(sql: str) -> tuple[list[str], Counter[str]]:
    """Return what DuckDB reads: its tokens without comments, and the comments, which may move past a comma."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)
    read: list[str] = []
    comments: Counter[str] = Counter()
    for (start, kind), end in zip(tokens, [*(start for start, _ in tokens[1:]), len(data)], strict=True):
        text = data[start:end].decode().strip()
        if kind == duckdb.token_type.comment:
            comments[re.sub(r"\s", "", text)] += 1
        else:
            read.append(text.lower() if kind == duckdb.token_type.keyword else text)
    return read, comments

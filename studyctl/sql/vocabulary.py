"""The words of DuckDB's SQL, as DuckDB itself lists them."""

from dataclasses import dataclass
from functools import cache

import duckdb


@dataclass(frozen=True, slots=True)
class Function:
    """A function of SQL; those of several kinds of arguments are one."""

    name: str
    rows: bool
    """Whether it returns rows, so that it stands where a table does."""
    parameters: tuple[str, ...]
    """Their names, of the form with the most."""
    about: str
    """A sentence, where DuckDB has one."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Keywords and functions."""

    reserved: tuple[str, ...]
    """Keywords that cannot be names of columns or tables, unless in quotes."""
    keywords: tuple[str, ...]
    """The other keywords."""
    functions: tuple[Function, ...]
    """Those over several rows first, as most questions to a study use them."""


@cache
def vocabulary() -> Vocabulary:
    """Ask DuckDB; it takes some 30 ms, and once a process."""
    with duckdb.connect(":memory:") as connection:
        words = connection.execute(_KEYWORDS).fetchall()
        functions = connection.execute(_FUNCTIONS).fetchall()
    return Vocabulary(
        tuple(word for word, reserved in words if reserved),
        tuple(word for word, reserved in words if not reserved),
        tuple(Function(name, rows, tuple(names), about) for name, rows, names, about in functions),
    )


def quoted(name: str) -> str:
    """Return a name, in quotes where SQL needs them."""
    if name.isidentifier() and name.islower() and name not in vocabulary().reserved:
        return name
    return '"' + name.replace('"', '""') + '"'


_KEYWORDS = """
SELECT keyword_name, keyword_category IN ('reserved', 'type_function') FROM duckdb_keywords() ORDER BY keyword_name
"""
_FUNCTIONS = """
SELECT function_name, function_type IN ('table', 'table_macro') AS has_rows, arg_max(parameters, len(parameters)),
    coalesce(first(description ORDER BY len(parameters)), '')
FROM duckdb_functions()
WHERE function_type <> 'pragma' AND regexp_full_match(function_name, '[a-z]\\w*')
    AND NOT starts_with(function_name, 'collate_') -- collations, of which there are 130
GROUP BY ALL ORDER BY NOT bool_or(function_type IN ('aggregate', 'window')), function_name, has_rows
"""

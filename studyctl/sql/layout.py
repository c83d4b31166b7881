"""The layout of a formatted query: that of sqlfmt, which arranges the tokens of a query, with the syntax of DuckDB.

sqlfmt's own dialect reads ``//`` and ``#`` as comments and a backslash in a string as an escape, and knows no ``**``; templates
of dbt are none here. Names keep their case, as it is that of the columns of a result.
"""

from functools import partial

import duckdb
from sqlfmt import actions
from sqlfmt.analyzer import Analyzer
from sqlfmt.dialect import Polyglot
from sqlfmt.exception import CannotMergeException
from sqlfmt.line import Line
from sqlfmt.merger import LineMerger
from sqlfmt.mode import Mode
from sqlfmt.node import Node, get_previous_token
from sqlfmt.node_manager import NodeManager
from sqlfmt.query_formatter import QueryFormatter
from sqlfmt.rule import Rule
from sqlfmt.tokens import Token, TokenType
from typing_extensions import override

LINE = 72
"""Maximum characters of a line: the editor of a terminal of 80 columns shows it on one."""
ANY_LENGTH = 1 << 20
"""Maximum characters of a comment: it stays on its line."""
_OTHERS = {
    *("jinja_start", "jinja_end", "fmt_off", "fmt_on"),
    *("quoted_name", "comment", "pg_operator", "spark_int_literals", "other_identifiers", "star_columns"),
    *("angle_bracket_close", "pragma", "grant"),
    *("create_clone", "create_function", "create_warehouse", "unsupported_ddl"),
}
"""Rules of other databases."""


def _rule(name: str, priority: int, pattern: str, kind: TokenType) -> Rule:
    return Rule(name, priority, f"({pattern})", partial(actions.add_node_to_buffer, token_type=kind))


_OWN = [
    _rule(
        "quoted_name",
        200,
        r"e'(?:[^'\\]|\\.|'')*'|x?'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$",
        TokenType.QUOTED_NAME,
    ),
    Rule("comment", 300, r"(--[^\r\n]*|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/)", actions.add_comment_to_buffer),
    _rule("long_operator", 405, r"\*\*|//", TokenType.OPERATOR),
    _rule("parameter", 406, r"[#$]\w+", TokenType.NAME),
]
"""What DuckDB has instead; the priorities are sqlfmt's."""


class _Nodes(NodeManager):
    """Sets blanks and case."""

    @override
    def create_node(self, token: Token, previous_node: Node | None) -> Node:
        node = super().create_node(token, previous_node)
        before, _ = get_previous_token(previous_node)
        bracket = next((one for one in reversed(node.open_brackets) if not one.is_unterm_keyword), None)
        opened_by = "" if bracket is None or bracket.previous_node is None else bracket.previous_node.value
        if before is not None and before.type is TokenType.COLON and token.type is not TokenType.NEWLINE:
            # of a struct or a lambda; a slice `l[1:2]` has none
            node.prefix = "" if bracket is not None and bracket.value == "[" else " "
        named = before is not None and before.token.lower() == "as" and "cast" not in opened_by
        if token.type is TokenType.NAME and not named and _is_keyword(token.token):
            node.value = token.token.lower()
        return node


def _is_keyword(word: str) -> bool:
    return duckdb.tokenize(word)[0][1] == duckdb.token_type.keyword


class _Clauses(LineMerger):
    """Joins short lines, but never two clauses of a query."""

    @override
    def create_merged_line(self, lines: list[Line]) -> list[Line]:
        nodes = [node for line in lines for node in line.nodes]
        if sum(node.is_unterm_keyword and not node.open_brackets for node in nodes) > 1:
            raise CannotMergeException("a clause has a line of its own")
        return super().create_merged_line(lines)


class _Formatter(QueryFormatter):
    @override
    def _merge_lines(self, lines: list[Line]) -> list[Line]:
        return _Clauses(self.mode).maybe_merge_lines(lines)


class _DuckDb(Polyglot):
    case_sensitive_names = True

    @override
    def get_rules(self) -> list[Rule]:
        rules = [rule for rule in super().get_rules() if rule.name not in _OTHERS]
        return sorted([*rules, *_OWN], key=lambda rule: rule.priority)

    @override
    def initialize_analyzer(self, line_length: int) -> Analyzer:
        return Analyzer(line_length, self.get_rules(), _Nodes(self.case_sensitive_names))


def laid_out(sql: str) -> str:
    """Return a query with a line a clause, indented by four blanks, keywords in lower case; its tokens stay.

    Raises:
        SqlfmtError: it has brackets or strings without an end.
    """
    mode = Mode(line_length=LINE)
    mode.dialect = _DuckDb()
    analyzer = mode.dialect.initialize_analyzer(LINE)
    lines: list[str] = []
    ends_in_comment = False
    for line in _Formatter(mode).format(analyzer.parse_query(sql)).lines:
        text = line.render_with_comments(ANY_LENGTH)
        if text == ";\n" and lines and not ends_in_comment:
            lines[-1] = lines[-1].rstrip("\n") + text
        else:
            lines.append(text)
        ends_in_comment = bool(line.comments)
    return "".join(lines).strip("\n")

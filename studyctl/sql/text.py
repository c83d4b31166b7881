"""What the text of a query says about the place of the cursor, however much of the query is still missing.

No grammar: tokens, brackets, and the clauses between them. Half a query has no tree, and the grammar of the editor's colours knows
no query that begins with FROM.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""(?P<comment> --[^\n]*(?:\n|\Z) | /\*.*?(?:\*/|\Z) )
    | (?P<string> e'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z) | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<quoted> "(?:[^"]|"")*(?:"|\Z) )
    | (?P<word> [^\W\d]\w* )
    | (?P<number> \d[\w.]* )
    | (?P<mark> :: | := | \S )""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
CLOSES = {")": "(", "]": "[", "}": "{"}
SET_OPERATORS = frozenset({"union", "intersect", "except"})
OF_TABLES = frozenset({"from", "join", "describe", "summarize", "pivot", "unpivot"})
"""Words that are followed by a table."""
CLAUSES = OF_TABLES | {
    *("with", "select", "where", "group", "having", "qualify", "order", "limit", "offset", "window"),
    *("on", "using", "values", "set"),
}
"""Words that begin a part of a query."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a query."""

    kind: str
    """The name of its group in :data:`TOKEN`; ``cursor`` for the place of the cursor."""
    text: str

    @property
    def word(self) -> str:
        """A bare word in lower case; empty for anything else."""
        return self.text.lower() if self.kind == "word" else ""

    @property
    def label(self) -> str:
        """The name that it may be, without quotes; empty if it cannot be one."""
        if self.kind == "quoted":
            return self.text.strip('"').replace('""', '"')
        return self.text if self.kind == "word" else ""

    @property
    def name(self) -> str:
        """That name in lower case."""
        return self.label.lower()


CURSOR = Token("cursor", "")


@dataclass(slots=True)
class Group:
    """What stands between two brackets, or the whole statement."""

    opened: str = ""
    parts: "list[Token | Group]" = field(default_factory=list)

    text = word = label = name = ""
    """A group is no word and no name."""


Part = Token | Group


@dataclass(frozen=True, slots=True)
class Place:
    """The statement around the cursor, without the word at it."""

    typed: str
    """The part of the word that is before the cursor."""
    start: int
    """Where that word begins, with its quote; counted from the start of the text."""
    end: int
    """Where it ends, which may be behind the cursor."""
    in_quotes: bool
    before: tuple[Token, ...]
    """The tokens of the statement before the word."""
    path: tuple[Group, ...]
    """The groups around the cursor, the statement first."""


def place_of(text: str, cursor: int) -> Place | None:
    """Return the place of the cursor in a text; None in a string, a comment or a number."""
    before = list(TOKEN.finditer(text, 0, cursor))
    typed, start, in_quotes = "", cursor, False
    if before and before[-1].end() == cursor:
        last = before[-1]
        match last.lastgroup:
            case "word":
                typed, start = last[0], last.start()
            case "quoted" if _is_open(last[0]):
                typed, start, in_quotes = last[0][1:], last.start(), True
            case "number":
                return None
            case "comment" | "string" | "quoted" if _is_open(last[0]):
                return None
        if start < cursor:
            before.pop()
    rest = re.compile(r'\w*"?' if in_quotes else r"\w*").match(text, cursor)
    end = cursor if rest is None else rest.end()
    head = tuple(_tokens(before[_after_semicolon(before) :]))
    tail = _to_first(_tokens(TOKEN.finditer(text, end)))
    return Place(typed, start, end, in_quotes, head, _path((*head, CURSOR, *tail)))


def _is_open(text: str) -> bool:
    """Whether a comment, string or quoted name goes on behind its end."""
    if text.startswith("--"):
        return not text.endswith("\n")
    if text.startswith("/*"):
        return len(text) < 4 or not text.endswith("*/")
    if text.startswith("$"):
        tag = text[: text.index("$", 1) + 1]
        return len(text) < 2 * len(tag) or not text.endswith(tag)
    if text[0] in "eE":
        text = re.sub(r"\\.", "", text, flags=re.DOTALL)
    return text.count('"' if text[0] == '"' else "'") % 2 == 1


def _after_semicolon(matches: list[re.Match[str]]) -> int:
    """Return where the last statement begins."""
    return next((at for at in range(len(matches), 0, -1) if matches[at - 1][0] == ";"), 0)


def _tokens(matches: Iterable[re.Match[str]]) -> Iterator[Token]:
    for match in matches:
        kind = match.lastgroup
        if kind is not None and kind != "comment":
            yield Token(kind, match[0])


def _to_first(tokens: Iterator[Token]) -> Iterator[Token]:
    """Yield the tokens up to the end of the statement."""
    for token in tokens:
        if token.text == ";":
            return
        yield token


def _path(tokens: tuple[Token, ...]) -> tuple[Group, ...]:
    """Sort tokens into groups by their brackets; return those that are open at the cursor."""
    stack = [Group()]
    path: tuple[Group, ...] = ()
    for token in tokens:
        if token.kind == "mark" and token.text in CLOSES.values():
            group = Group(token.text)
            stack[-1].parts.append(group)
            stack.append(group)
        elif token.kind == "mark" and token.text in CLOSES:
            if stack[-1].opened == CLOSES[token.text]:
                stack.pop()
        else:
            stack[-1].parts.append(token)
            if token is CURSOR:
                path = tuple(stack)
    return path

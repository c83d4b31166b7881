"""The one reader of TOML: its data, or what is wrong at which place."""

import re
import tomllib
from enum import Enum, auto
from typing import Any


class Fault(Enum):
    """What is wrong with a text that is no TOML."""

    NO_VALUE = auto()
    LINE_ENDS_IN_TEXT = auto()
    ESCAPE = auto()
    NO_EQUALS = auto()
    LIST_NOT_CLOSED = auto()
    INLINE_TABLE_NOT_CLOSED = auto()
    """A table in braces."""
    MORE_AFTER_VALUE = auto()
    NO_STATEMENT = auto()
    """Neither a key nor a table's header."""
    HEADER_NOT_CLOSED = auto()
    KEY_OF_VALUE = auto()
    """A key below another one that has a value."""
    TWICE = auto()
    """A key or table that is there already."""
    TOO_DEEP = auto()
    OTHER = auto()


_FAULTS = (
    ("Invalid value", Fault.NO_VALUE),
    ("Illegal character '\\n'", Fault.LINE_ENDS_IN_TEXT),
    ("Unescaped", Fault.ESCAPE),
    ("Invalid hex value", Fault.ESCAPE),
    ("Expected '=' after a key", Fault.NO_EQUALS),
    ("Unclosed array", Fault.LIST_NOT_CLOSED),
    ("Unclosed inline table", Fault.INLINE_TABLE_NOT_CLOSED),
    ("Expected newline", Fault.MORE_AFTER_VALUE),
    ("Invalid statement", Fault.NO_STATEMENT),
    ("Expected ']", Fault.HEADER_NOT_CLOSED),
    ("Cannot overwrite a value", Fault.KEY_OF_VALUE),
    ("Cannot overwrite", Fault.TWICE),
    ("Cannot declare", Fault.TWICE),
    ("Duplicate", Fault.TWICE),
)
"""How ``tomllib``'s messages begin: it has no other way to say what is wrong. Only here are they read."""


class TomlError(ValueError):
    """A text is no TOML."""

    def __init__(self, fault: Fault, message: str, line: int | None = None, column: int = 1) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        """In the parser's words, without the place."""
        self.line = line
        """From 1; None: the end of the text came too early."""
        self.column = column
        """From 1."""


def read(text: str) -> dict[str, Any]:
    """Return the data of a TOML text.

    Raises:
        TomlError: it is none, or nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _explained(str(error)) from error
    except RecursionError as error:
        raise TomlError(Fault.TOO_DEEP, "nested too deeply", 1) from error


def _explained(words: str) -> TomlError:
    # Attributes for the place came with Python 3.14; the text has been the same since 3.11.
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", words, re.DOTALL)
    if found is None:
        return TomlError(Fault.OTHER, words, 1)
    message, line, column = found.groups()
    begins = (fault for words, fault in _FAULTS if message.startswith(words))
    fault = next(begins, Fault.ESCAPE if "escape" in message else Fault.OTHER)
    return TomlError(fault, message, int(line) if line else None, int(column or 1))

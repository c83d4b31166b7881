"""Reading TOML: its data, or its first error with kind, line and column."""

import re
import tomllib
from enum import Enum
from typing import Any


class Fault(Enum):
    """Kind of a TOML error, told by how ``tomllib``'s message begins: it offers nothing else to tell them apart."""

    NO_VALUE = ("Invalid value",)
    LINE_ENDS_IN_TEXT = ("Illegal character '\\n'",)
    ESCAPE = ("Unescaped", "Escaped character", "Invalid hex value")
    NO_EQUALS = ("Expected '=' after a key",)
    LIST_NOT_CLOSED = ("Unclosed array",)
    INLINE_TABLE_NOT_CLOSED = ("Unclosed inline table",)
    """A table in braces."""
    MORE_AFTER_VALUE = ("Expected newline",)
    NO_STATEMENT = ("Invalid statement",)
    """Neither a key nor a table's header."""
    HEADER_NOT_CLOSED = ("Expected ']",)
    KEY_OF_VALUE = ("Cannot overwrite a value",)
    """A key inside one that already has a plain value."""
    TWICE = ("Cannot overwrite", "Cannot declare", "Duplicate")
    """A key or table that exists already."""
    TOO_DEEP = ("nested too deeply",)
    """Our own message: ``tomllib`` runs out of stack."""
    TOO_LONG = ("a number has too many digits",)
    """Our own message for what Python says of numbers of thousands of digits."""
    OTHER = ("",)
    """Any other message; last, as every text begins so. An empty tuple would not stay a value in Python 3.11.2, that of Debian 12."""


class TomlError(ValueError):
    """A text is not TOML."""

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
        TomlError: it is not TOML, or nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Attributes for line and column came with Python 3.14; the wording has been the same since 3.11.
        match = re.fullmatch(
            r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL
        )
        if match is None:
            raise TomlError(Fault.OTHER, str(error), 1) from error
        message, line, column = match.groups()
        fault = next(fault for fault in Fault if message.startswith(fault.value))
        raise TomlError(fault, message, int(line) if line else None, int(column or 1)) from error
    except ValueError as error:
        digits = re.search(r"\d[\d_]{1000,}", text)
        before = text[: digits.start()] if digits else ""
        column = len(before) - before.rfind("\n")
        raise TomlError(
            Fault.TOO_LONG, "a number has too many digits", before.count("\n") + 1, column
        ) from error
    except RecursionError as error:
        raise TomlError(Fault.TOO_DEEP, "nested too deeply", 1) from error

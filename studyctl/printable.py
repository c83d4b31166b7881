"""Text of others (a study that was received, a model's id, an error of a library) on the user's terminal."""

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline; escape sequences begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text that follows
    "\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff\U000e0000-\U000e0fff"  # have no width
    "\u2028\u2029\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a]"  # separators and other formats
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
"""Escape sequences: colours and cursor movements, titles and other texts for the terminal, two characters."""


def printable(text: str, instead: str = "") -> str:
    """Return a text without characters that are not seen but change what a terminal shows or does.

    A lone surrogate, which cannot be encoded, becomes ``�``.

    Args:
        text: any text.
        instead: put in the place of each. They take no room: without one, a layout that was made before stays right.
    """
    if text.isprintable():
        return text
    return _LONE_SURROGATE.sub("\ufffd", _UNSEEN.sub(instead, text))


def on_one_line(text: str) -> str:
    """Return a text for one line: line breaks as ``⏎``, tabs as blanks, characters that are not seen as ``�``."""
    if text.isprintable():
        return text
    return printable(text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", " "), "�")


def printed_line(line: str) -> str:
    """Return a line that a program printed as a terminal would show it in the end: no colours, no overwritten progress bars."""
    shown = line.rstrip("\r").rsplit("\r", 1)[-1]
    return printable(_SEQUENCE.sub("", shown))


def escaped_json(text: str) -> str:
    r"""Return JSON with such characters as ``\uXXXX``, which says the same: JSON has them in strings only."""
    if text.isprintable():
        return text
    return _LONE_SURROGATE.sub(_escape, _UNSEEN.sub(_escape, text))


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

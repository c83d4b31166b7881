"""What an editor offers to write at a place: for specs (:mod:`studyctl.spec.assist`) and queries (:mod:`studyctl.sql.completion`)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One completion."""

    label: str
    insert: str
    note: str = ""
    """A few words on it."""


@dataclass(frozen=True, slots=True)
class Completions:
    """The completions at a place; each replaces the columns from ``start`` to ``end`` of the line."""

    start: int
    end: int
    items: tuple[Item, ...]

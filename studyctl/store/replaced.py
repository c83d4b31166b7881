"""A database that is replaced while it is read: a local disk keeps the old one for its readers; a network disk may answer ESTALE."""

import errno
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from studyctl.errors import Problem, ProblemCode, StudyError

REPLACED = Problem("the database was replaced while it was read", hint="ask again", code=ProblemCode.REPLACED)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_stale(error: Exception) -> bool:
    """Return whether a read met ESTALE, of which DuckDB and Arrow pass on the text."""
    return os.strerror(errno.ESTALE) in str(error)


def once_more_if_replaced(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function that opens the database and reads it begin once more if the file was replaced meanwhile."""

    @wraps(read)
    def reading(*arguments: _P.args, **named: _P.kwargs) -> _T:
        try:
            return read(*arguments, **named)
        except StudyError as error:
            if REPLACED not in error.problems:
                raise
        return read(*arguments, **named)

    return reading

"""Queries that Ctrl-C ends."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import duckdb

_Result = TypeVar("_Result")
_INTERRUPT_SECONDS = 0.05


def hear_interrupts(connection: duckdb.DuckDBPyConnection, query: Callable[[], _Result]) -> _Result:
    """Return the result of a function that queries an open reader.

    DuckDB hears no Ctrl-C, and in this thread it would keep Python from hearing it: the function is called in another.

    Raises:
        KeyboardInterrupt: Ctrl-C; the query has ended.
    """
    answer: Future[_Result] = Future()
    try:
        threading.Thread(target=_run, args=(query, answer), name="query").start()
        return answer.result()
    except KeyboardInterrupt:
        answer.cancel()  # if it has not begun: the interrupt may come while the thread starts
        while not answer.done():  # a query that is just starting may miss it
            connection.interrupt()
            wait([answer], _INTERRUPT_SECONDS)
        raise


def _run(query: Callable[[], _Result], answer: "Future[_Result]") -> None:
    if answer.set_running_or_notify_cancel():
        try:
            answer.set_result(query())
        except BaseException as error:
            answer.set_exception(error)

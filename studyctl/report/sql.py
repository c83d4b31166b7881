"""``studyctl sql``: one answer, or a prompt."""

import contextlib
import io
import sys
from contextlib import closing
from functools import partial

import duckdb
from rich.text import Text
from typing_extensions import Buffer

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, cache_folder, cache_trouble
from studyctl.printable import on_one_line, printable
from studyctl.report.console import TextConsole
from studyctl.report.problems import draw
from studyctl.report.tables import print_table, write_csv, write_json, write_parquet
from studyctl.store.interrupts import hear_interrupts
from studyctl.store.query import STOPPED, fetch, open_reader, stream
from studyctl.store.replaced import once_more_if_replaced

WRITERS = {"csv": write_csv, "json": write_json, "parquet": write_parquet}
HELP = "SQL ends with `;`. `.tables` lists tables and views, `.quit` leaves. Try: from leaderboard;"


def answer(paths: StudyPaths, query: str, output: str, *, external_access: bool) -> None:
    """Run a query and print its result on stdout.

    Raises:
        StudyError: the query is wrong, needs too much memory, or nothing is published yet.
        KeyboardInterrupt: Ctrl-C; the query has ended.
    """
    if output == "parquet" and sys.stdout.isatty():
        raise StudyError(
            "Parquet cannot be shown in a terminal",
            hint="send it to a file: ... --format parquet > result.parquet",
        )

    def write(connection: duckdb.DuckDBPyConnection) -> None:
        if output == "table":
            print_table(fetch(connection, query), TextConsole())
        else:
            terminal = _Terminal() if sys.stdout.isatty() else sys.stdout.buffer
            WRITERS[output](stream(connection, query), terminal)
            sys.stdout.flush()

    def ask() -> None:
        with closing(open_reader(paths, external_access=external_access)) as connection:
            hear_interrupts(connection, partial(write, connection))

    # Of the other formats a part is written already.
    (once_more_if_replaced(ask) if output == "table" else ask)()


class _Terminal(io.BytesIO):
    """The user's terminal as a file that shows printable text only."""

    def write(self, data: Buffer) -> int:
        text = bytes(data).decode(errors="replace")
        return sys.stdout.write(printable(text))


def prompt(paths: StudyPaths, output: str, *, external_access: bool) -> None:
    """Read queries from stdin until its end; an error in one is shown, and the next is read."""
    interactive = sys.stdin.isatty()
    errors = TextConsole(stderr=True)
    if interactive:
        errors.print(Text(f"{paths.name}: {HELP}"))
        _remember_lines()
    pending = ""
    while True:
        try:
            asking = "   ...> " if pending else f"{on_one_line(paths.name)}> "
            line = input(asking if interactive else "")
        except EOFError:
            line = ".quit" if not pending.strip() else ";"
        if not pending and line.strip() in (".quit", ".exit"):
            return
        if not pending and line.strip() == ".tables":
            line = "select table_name, comment from (select database_name, table_name, comment from duckdb_tables() union all select database_name, view_name, comment from duckdb_views() where not internal) where database_name = current_database();"
        pending += line + "\n"
        if line.rstrip().endswith(";"):
            query, pending = pending.strip().rstrip(";"), ""
            try:
                answer(paths, query, output, external_access=external_access)
            except StudyError as error:
                draw(error.problems, errors)
            except KeyboardInterrupt:
                draw([STOPPED], errors)


def _remember_lines() -> None:
    """Let the arrow keys bring back earlier queries, also of earlier sessions."""
    with contextlib.suppress(ImportError):  # a Python without readline reads plain lines
        import atexit
        import readline

        history = cache_folder() / "sql_history"
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
        if not cache_trouble():
            atexit.register(readline.write_history_file, history)

"""Writing rows to a file, never over another one without asking."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ClassVar

import pyarrow as pa
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from studyctl.files import atomic_path
from studyctl.report.tables import write_csv, write_json, write_parquet
from studyctl.units import bytes_text

WRITERS: dict[str, Callable[[pa.Table, BinaryIO], None]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".parquet": write_parquet,
}


def write_rows(table: pa.Table, path: Path, *, replace: bool) -> int:
    """Write rows in the format that the ending names; a failure leaves no part of a file. Returns the bytes.

    Raises:
        FileExistsError: there is such a file, and it may not be replaced.
        OSError: it cannot be written.
    """
    if not replace:
        path.open("xb").close()  # takes the name, so that no other program's file is lost
    try:
        with atomic_path(path) as temporary:
            with temporary.open("wb") as stream:
                WRITERS[path.suffix.lower()](table, stream)
            return temporary.stat().st_size
    except BaseException:
        if not replace:
            path.unlink(missing_ok=True)
        raise


def what_failed(path: Path, error: OSError) -> str:
    """Say what is wrong and what to do."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk of {path.parent} is full; nothing was written: free some space, or name another folder"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{path.parent} may not be written to: name another folder"
    return f"{path} cannot be written: {error.strerror or error}"


class ExportDialog(ModalScreen[str | None]):
    """Asks for a file name; returns what it wrote, in words."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("down,up", "next_format", "csv, json, parquet", priority=True),
    ]
    DEFAULT_CSS = """
    ExportDialog { align: center middle; }
    ExportDialog > Vertical {
        width: 72; max-width: 95%; height: auto; padding: 1 2; border: round $primary; background: $surface;
    }
    ExportDialog Input { background: $panel; margin: 1 0; }
    ExportDialog Static { height: auto; color: $foreground; }
    ExportDialog .says { min-height: 2; }
    """

    def __init__(self, table: pa.Table, name: str) -> None:
        super().__init__()
        self._table, self._stem = table, name
        self._may_replace: Path | None = None
        self._writing = False

    def compose(self) -> ComposeResult:
        """Yield the question."""
        with Vertical():
            yield Static(Text(f"Export {self._table.num_rows:,} rows", style="bold"))
            yield Input(f"{self._stem}.csv", select_on_focus=False, compact=True)
            yield Static("", classes="says", markup=False)
            yield Static("↑ ↓ csv, json, parquet · enter writes · esc closes", markup=False)

    def action_next_format(self) -> None:
        """Give the name the next ending."""
        box = self.query_one(Input)
        path, endings = Path(str(box.value) or self._stem), list(WRITERS)
        known = path.suffix.lower() in WRITERS
        ending = endings[(endings.index(path.suffix.lower()) + 1) % len(endings)] if known else endings[0]
        box.value = str(path.with_suffix("") if known else path) + ending
        box.cursor_position = len(box.value)

    @on(Input.Changed)
    def _another_name(self) -> None:
        self._may_replace = None
        self._say("")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        path = Path(event.value.strip()).expanduser()
        if self._writing:
            return
        if path.suffix.lower() not in WRITERS:
            self._say("the ending says the format: .csv, .json or .parquet")
            return
        self._writing = True
        self._say("writing …")
        self._write(path, replace=path == self._may_replace)

    @work(thread=True)
    def _write(self, path: Path, replace: bool) -> None:
        worker, size = get_current_worker(), 0
        error: Exception | None = None
        try:
            if not path.absolute().parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, f"there is no folder {path.parent}")
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            if path.exists() and not replace:
                raise FileExistsError(errno.EEXIST, "it exists already")
            size = write_rows(self._table, path, replace=replace)
        except (OSError, pa.ArrowException) as failed:
            error = failed
        if not worker.is_cancelled:
            self.app.call_from_thread(self._written, path, size, error)

    def _written(self, path: Path, size: int, error: Exception | None) -> None:
        self._writing = False
        match error:
            case None:
                self.dismiss(f"{self._table.num_rows:,} rows written to {path} ({bytes_text(size)})")
            case FileExistsError():
                self._may_replace = path
                self._say(f"{path} exists already: enter once more replaces it")
            case OSError():
                self._say(what_failed(path, error))
            case _:
                self._say(f"{path.suffix} cannot hold these rows: {error}")

    def _say(self, text: str) -> None:
        self.query_one(".says", Static).update(text)

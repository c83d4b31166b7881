"""Writing rows to a file; an existing file is replaced only after asking."""

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
from textual.widgets import Input, Static

from studyctl.files import atomic_path
from studyctl.report.tables import BATCH_ROWS, write_csv, write_json, write_parquet
from studyctl.units import bytes_text
from studyctl_tui.shared.dialogs import Dialog

WRITERS: dict[str, Callable[[pa.RecordBatchReader, BinaryIO], None]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".parquet": write_parquet,
}


def write_rows(table: pa.Table, path: Path, *, replace: bool) -> int:
    """Write rows in the format of the file's ending and return the size in bytes; a failure leaves no partial file.

    Raises:
        FileExistsError: the file exists and must not be replaced.
        OSError: it cannot be written.
    """
    if not replace:
        path.open("xb").close()  # reserves the name, so that no other program's file is lost
    try:
        with atomic_path(path) as temporary:
            with temporary.open("wb") as stream:
                WRITERS[path.suffix.lower()](table.to_reader(BATCH_ROWS), stream)
            return temporary.stat().st_size
    except BaseException:
        if not replace:
            path.unlink(missing_ok=True)
        raise


def _trouble(path: Path, error: Exception) -> str:
    """Return the problem and what to do."""
    match error:
        case OSError() if path.is_dir():
            return f"{path} cannot be written: it is a folder"
        case FileExistsError():
            return f"{path} exists already: enter once more replaces it"
        case FileNotFoundError():
            return f"{path} cannot be written: there is no folder {path.parent}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"the disk of {path.parent} is full; nothing was written: free some space, or name another folder"
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
            return f"{path.parent} may not be written to: name another folder"
        case OSError():
            return f"{path} cannot be written: {error.strerror or error}"
    return f"{path.suffix} cannot hold these rows: {error}"


class ExportDialog(Dialog[None]):
    """Asks for a file name and writes the rows there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("down,up", "next_format", "csv, json, parquet", priority=True),
    ]
    DEFAULT_CSS = """
    ExportDialog Input { background: $panel; margin: 1 0; }
    ExportDialog Static { height: auto; color: $foreground; }
    ExportDialog .says { min-height: 2; }
    """

    def __init__(self, table: pa.Table) -> None:
        super().__init__()
        self._table = table
        self._may_replace: Path | None = None
        self._writing = False

    def compose(self) -> ComposeResult:
        """Yield the question."""
        with Vertical(classes="dialog"):
            yield Static(Text(f"Export {self._table.num_rows:,} rows", style="bold"))
            yield Input("result.csv", select_on_focus=False, compact=True)
            yield Static("", classes="says", markup=False)
            yield Static("↑ ↓ csv, json, parquet · enter writes · esc closes", markup=False)

    def action_next_format(self) -> None:
        """Change the ending of the name to the next format."""
        box = self.query_one(Input)
        path, endings = Path(box.value or "result"), list(WRITERS)
        ending = path.suffix.lower()
        if ending in endings:
            box.value = str(path.with_suffix(endings[(endings.index(ending) + 1) % len(endings)]))
        else:
            box.value = f"{path}{endings[0]}"
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
        try:
            size = write_rows(self._table, path, replace=replace)
        except (OSError, pa.ArrowException) as error:
            self.app.call_from_thread(self._failed, path, error)
        else:
            text = f"{self._table.num_rows:,} rows written to {path} ({bytes_text(size)})"
            self.app.call_from_thread(self.app.notify, text, markup=False)
            self.app.call_from_thread(self.dismiss)

    def _failed(self, path: Path, error: Exception) -> None:
        self._writing = False
        self._may_replace = path if isinstance(error, FileExistsError) else None
        self._say(_trouble(path, error))

    def _say(self, text: str) -> None:
        self.query_one(".says", Static).update(text)

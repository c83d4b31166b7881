"""Writing rows to a file; an existing file is replaced only after asking."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ClassVar

import pyarrow as pa
from textual.binding import Binding, BindingType
from textual.widgets import Input

from studyctl.files import atomic_path
from studyctl.report.tables import BATCH_ROWS, write_csv, write_json, write_parquet
from studyctl.units import bytes_text
from studyctl_tui.sql.naming import NameDialog, Refused

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


class ExportDialog(NameDialog[str]):
    """Asks for a file name and writes the rows there; returns what was done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,up", "next_format", "csv, json, parquet", priority=True),
    ]

    def __init__(self, table: pa.Table) -> None:
        heading = f"Export {table.num_rows:,} rows"
        super().__init__(heading, "result.csv", "↑ ↓ csv, json, parquet · enter writes · esc closes")
        self._table = table

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

    def trouble_with(self, name: str) -> str:
        """Return why a name will not do."""
        right = Path(name).suffix.lower() in WRITERS
        return "" if right else "the ending says the format: .csv, .json or .parquet"

    def write(self, name: str, *, replace: bool) -> str:
        """Write the rows."""
        path = Path(name).expanduser()
        try:
            size = write_rows(self._table, path, replace=replace)
        except (OSError, pa.ArrowException) as error:
            raise Refused(_trouble(path, error), may_replace=isinstance(error, FileExistsError)) from error
        return f"{self._table.num_rows:,} rows written to {path} ({bytes_text(size)})"

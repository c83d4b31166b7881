"""The end of an attempt's log, as lines that are safe to show."""

from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len, chop_cells
from textual.content import Content

from studyctl.printable import printed_line

MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class LogTail:
    """The end of a log as it was read."""

    path: Path
    stamp: tuple[int, int] | None
    """Size and time of the file; None if there is none."""
    lines: tuple[str, ...] = ()
    trouble: str = ""


def read_tail(path: Path, before: LogTail | None = None) -> LogTail:
    """Read the end of a log, or return what was read before if the file is the same. May wait for a disk."""
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if before is not None and before.path == path and before.stamp == stamp:
            return before
        with path.open("rb") as file:
            file.seek(max(0, status.st_size - MOST_BYTES))
            data = file.read(MOST_BYTES)
    except FileNotFoundError:
        return LogTail(path, None, trouble="nothing was printed")
    except OSError as error:
        return LogTail(path, None, trouble=f"{path} cannot be read ({error.strerror})")
    lines = data.decode(errors="replace").split("\n")
    if status.st_size > MOST_BYTES:
        lines = ["…", *lines[1:]]
    lines = lines if lines[-1] else lines[:-1]
    return LogTail(path, stamp, tuple(printed_line(line).expandtabs(4) for line in lines))


def log_lines(tail: LogTail, width: int) -> list[Content]:
    """Fold the lines to a width."""
    if tail.trouble or not tail.lines:
        return [Content.styled(tail.trouble or "nothing was printed", "dim")]
    lines: list[Content] = []
    for line in tail.lines:
        pieces = [line] if cell_len(line) <= width else chop_cells(line, max(1, width))
        lines += map(Content, pieces)
    return lines

"""Standard streams that a closed pipe, a full disk, a closed terminal or an old encoding does not turn into a traceback."""

import errno
import io
import os
import sys
from typing import Any, TextIO

from studyctl.errors import ExitCode, StudyError


class OutputClosed(SystemExit):
    """Whoever read standard output has gone, such as ``head``: no error, and nothing more to do."""


class OutputError(StudyError):
    """Standard output cannot be written."""


class _Output(io.FileIO):
    """Standard output, for data."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _lead_nowhere(self.fileno())
            if error.errno == errno.EPIPE:
                raise OutputClosed(ExitCode.DONE) from error
            raise OutputError(f"the output cannot be written: {error.strerror}") from error


class _Messages(io.FileIO):
    """Standard error: no work ends because nobody reads its progress."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            _lead_nowhere(self.fileno())
            return len(data)


def _lead_nowhere(stream: int) -> None:
    """Let everything that is written to a stream from now on disappear, also when Python flushes it at its end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def prepare_streams() -> None:
    """Replace the standard streams of this process; characters that their encoding does not have are written as escapes."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a stream was closed: the next file that is opened would take its number, and get what is printed
    os.close(handle)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = _stream(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _stream(_Messages(2, "w", closefd=False), sys.stderr)


def _stream(raw: io.FileIO, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )

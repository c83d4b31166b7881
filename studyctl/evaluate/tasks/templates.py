"""The templates of tasks: a definition may come from a stranger, and rendering it must neither run code nor take the machine.

lm-eval renders every template of a definition through one Jinja environment. It is replaced by Jinja's sandbox with the same
filters: the values that it shows are the same, Python's internals and changes to values are refused.
"""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import jinja2
import lm_eval.utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import LRUCache

SECONDS = 10.0
"""Processor time that one text may take."""
MEMORY_BYTES = 1 << 30
"""What one text may take beyond what the process has; on Linux."""


class _TooLong(BaseException):
    """The time is over. No ``Exception``: Jinja swallows those of constants, and computes them again later."""


@contextmanager
def bounded() -> Iterator[None]:
    """Refuse a template that takes too long or too much memory. For the main thread, which alone gets signals.

    Raises:
        SecurityError: it does.
    """

    def too_long(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    handler = signal.signal(signal.SIGVTALRM, too_long)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_bytes().split()[5])
            most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
            soft = most if limits[0] == resource.RLIM_INFINITY else min(most, limits[0])
            resource.setrlimit(resource.RLIMIT_DATA, (soft, limits[1]))
        yield
    except _TooLong as error:
        raise SecurityError(f"its template takes more than {SECONDS:g} s of processor time") from error
    except MemoryError as error:
        raise SecurityError(f"its template takes more than {MEMORY_BYTES >> 30} GiB of memory") from error
    except RecursionError as error:
        raise SecurityError("its template is nested too deeply") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, limits)


class _Template(jinja2.Template):
    def render(self, *args: Any, **kwargs: Any) -> str:
        with bounded():
            return super().render(*args, **kwargs)


class _Environment(ImmutableSandboxedEnvironment):
    template_class = _Template

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compiled = LRUCache(100)
        """By source: lm-eval asks again for every item, and compiling takes longer than rendering."""

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> jinja2.Template:
        if (template := self._compiled.get(source)) is None:
            with bounded():  # constants are computed here
                template = self._compiled[source] = super().from_string(source, *args, **kwargs)
        return cast("jinja2.Template", template)


def sandbox_templates() -> None:
    """Make lm-eval render in the sandbox from now on, in this process."""
    old = lm_eval.utils.env
    if not isinstance(old, _Environment):
        lm_eval.utils.env = _Environment(
            loader=old.loader, undefined=old.undefined, keep_trailing_newline=old.keep_trailing_newline
        )
        lm_eval.utils.env.filters.update(old.filters)

"""studyctl: measure what pruning and quantizing small language models costs.

A study spec is data; ``studyctl run`` brings the stored results up to date with it. ``studyctl.open("mine")`` reads them in Python.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from studyctl.api import Rows as Rows
    from studyctl.api import Study as Study
    from studyctl.api import open as open
    from studyctl.errors import StudyError as StudyError
else:
    _PUBLIC = {"Rows": "api", "Study": "api", "StudyError": "errors", "open": "api"}

    def __getattr__(name):
        """Import what Python users see when it is first used: every command imports this module."""
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)

    def __dir__():
        return sorted(globals().keys() | _PUBLIC)

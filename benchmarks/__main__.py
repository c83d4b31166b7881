"""Run all benchmarks, or those that are named; with ``--write`` their tables go into ``docs/performance.md``.

``gguf MODEL TEXTS`` is about a model and texts of the user's, and is run by its name only.
"""

import sys
from importlib import import_module

from benchmarks.page import begin, write_section

NAMES = (
    "startup",
    "planning",
    "publishing",
    "app",
    "overhead",
    "cluster",
    "findings",
    "estimates",
    "compression",
    "tasks",
    "text",
)
"""Quick ones first; the last six take minutes."""
BY_NAME_ONLY = ("reference", "peers")
"""Most of an hour each; `peers` needs the environments of `studyctl backends sync`."""


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, those of :data:`NAMES` without a name; return the exit code."""
    if arguments[:1] == ["gguf"]:  # the only one that is about a model of the user's
        import_module("benchmarks.gguf").main(arguments[1:])
        return 0
    names = [argument for argument in arguments if argument != "--write"]
    if unknown := [name for name in names if name not in (*NAMES, *BY_NAME_ONLY)]:
        print(
            f"no benchmark `{unknown[0]}`; there are: {', '.join((*NAMES, *BY_NAME_ONLY))}", file=sys.stderr
        )
        return 2
    for name in names or NAMES:
        begin(name)
        module = import_module(f"benchmarks.{name}")
        module.main()
        if "--write" in arguments:
            write_section(name, (module.__doc__ or "").partition("\n")[0], (*NAMES, *BY_NAME_ONLY))
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run all benchmarks, or those that are named."""

import os
import sys
from importlib import import_module

NAMES = ("startup", "planning", "publishing", "app", "overhead", "estimates", "compression", "tasks", "text")
"""Quick ones first; the last five take minutes."""
BY_NAME_ONLY = ("memory38", "reference", "peers")
"""The first takes ten minutes and 5 GB, the others most of an hour, and `peers` the environments of `studyctl backends sync`."""


def main(names: list[str]) -> int:
    """Run the named benchmarks, those of :data:`NAMES` without a name; return the exit code."""
    if unknown := [name for name in names if name not in (*NAMES, *BY_NAME_ONLY)]:
        print(
            f"no benchmark `{unknown[0]}`; there are: {', '.join((*NAMES, *BY_NAME_ONLY))}", file=sys.stderr
        )
        return 2
    for name in names or NAMES:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"== {name} ({os.cpu_count()} cores, load average {load})", flush=True)
        import_module(f"benchmarks.{name}").main()
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

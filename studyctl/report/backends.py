"""What ``studyctl backends`` prints."""

from rich.console import Console
from rich.table import Table

from studyctl.backends.catalog import GPU_SIZE_BYTES
from studyctl.backends.environments import Environment
from studyctl.units import bytes_text

_STATES = {
    "synced": "● synced",
    "outdated": "◐ outdated",
    "unfinished": "◐ unfinished",
    "missing": "○ not synced",
}


def draw_backends(environments: list[Environment], console: Console) -> None:
    """Print a table of the backends and their environments."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("backend", "version", "methods", "devices", "environment"):
        table.add_column(name, no_wrap=name != "methods")
    table.add_column("size", justify="right", no_wrap=True)
    for environment in environments:
        backend = environment.backend
        size = (
            bytes_text(environment.size_bytes)
            if environment.size_bytes
            else f"~{bytes_text(backend.size_bytes)}"
        )
        methods = ", ".join(
            name + (" (cuda)" if row.devices == ("cuda",) and "cpu" in backend.devices else "")
            for name, row in backend.abilities.items()
        )
        table.add_row(
            backend.name,
            backend.version,
            methods,
            ", ".join(backend.devices),
            _STATES[environment.state],
            size,
        )
    console.print(table)
    if any(environment.state != "synced" for environment in environments):
        console.print(
            "`studyctl backends sync [NAME]...` makes what is not synced; with torch for a GPU, each takes "
            f"{bytes_text(GPU_SIZE_BYTES)}",
            markup=False,
        )


def backends_as_json(environments: list[Environment]) -> list[dict[str, object]]:
    """Return every backend with its environment, for scripts."""
    return [
        {
            "backend": environment.backend.name,
            "package": environment.backend.package,
            "version": environment.backend.version,
            "methods": {name: list(row.devices) for name, row in environment.backend.abilities.items()},
            "state": environment.state,
            "folder": str(environment.folder),
            "size_bytes": environment.size_bytes,
            "expected_size_bytes": environment.backend.size_bytes,
            "expected_size_bytes_with_gpu": GPU_SIZE_BYTES,
        }
        for environment in environments
    ]

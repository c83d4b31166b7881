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
    """Print a table of the packages that can compress instead of studyctl."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("backend", "version", "methods", "devices", "environment"):
        table.add_column(name, no_wrap=name != "methods")
    table.add_column("size", justify="right", no_wrap=True)
    for found in environments:
        backend = found.backend
        size = bytes_text(found.size_bytes) if found.size_bytes else f"~{bytes_text(backend.size_bytes)}"
        methods = ", ".join(
            name + (" (cuda)" if row.devices == ("cuda",) and "cpu" in backend.devices else "")
            for name, row in backend.abilities.items()
        )
        table.add_row(
            backend.name, backend.version, methods, ", ".join(backend.devices), _STATES[found.state], size
        )
    console.print(table)
    if any(found.state != "synced" for found in environments):
        console.print(
            "`studyctl backends sync [NAME]...` makes what is not synced; where torch for a GPU is what pip or uv "
            f"installs, each takes {bytes_text(GPU_SIZE_BYTES)}",
            markup=False,
        )


def backends_as_json(environments: list[Environment]) -> list[dict[str, object]]:
    """Return what is known of every backend."""
    return [
        {
            "backend": found.backend.name,
            "package": found.backend.package,
            "version": found.backend.version,
            "methods": {name: list(row.devices) for name, row in found.backend.abilities.items()},
            "state": found.state,
            "folder": str(found.folder),
            "size_bytes": found.size_bytes,
            "expected_size_bytes": found.backend.size_bytes,
            "expected_size_bytes_with_gpu": GPU_SIZE_BYTES,
        }
        for found in environments
    ]

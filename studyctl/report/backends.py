"""What ``studyctl backends`` prints."""

from rich.console import Console
from rich.text import Text

from studyctl.backends.catalog import GPU_SIZE_BYTES, Backend
from studyctl.backends.environments import Environment
from studyctl.report.layout import Column, print_tables
from studyctl.units import bytes_text

_STATES = {
    "synced": "● synced",
    "outdated": "◐ outdated",
    "unfinished": "◐ unfinished",
    "missing": "○ not synced",
}


def draw_backends(environments: list[Environment], console: Console) -> None:
    """Print a table of the backends and their environments."""
    backends = [environment.backend for environment in environments]
    columns = [
        Column("version", [Text(backend.version) for backend in backends], left=True),
        Column("methods", [Text(_methods(backend)) for backend in backends], left=True),
        Column("devices", [Text(", ".join(backend.devices)) for backend in backends], left=True),
        Column("environment", [Text(_STATES[environment.state]) for environment in environments], left=True),
        Column("size", [Text(_size(environment)) for environment in environments]),
    ]
    print_tables(console, "backend", [Text(backend.name) for backend in backends], columns)
    if any(environment.state != "synced" for environment in environments):
        console.print(
            "`studyctl backends sync [NAME]...` makes what is not synced; with torch for a GPU, each takes "
            f"{bytes_text(GPU_SIZE_BYTES)}",
            markup=False,
        )


def _methods(backend: Backend) -> str:
    return ", ".join(
        name + (" (cuda)" if row.devices == ("cuda",) and "cpu" in backend.devices else "")
        for name, row in backend.abilities.items()
    )


def _size(environment: Environment) -> str:
    """Return what an environment takes, or what it would."""
    if environment.size_bytes:
        return bytes_text(environment.size_bytes)
    return f"~{bytes_text(environment.backend.size_bytes)}"


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

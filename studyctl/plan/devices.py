"""Which devices a study runs on, found without importing torch."""

import shutil
import subprocess

from studyctl.errors import SpecError


def visible_gpus() -> list[str]:
    """Return ``cuda:0``, ``cuda:1``, ... as the NVIDIA driver lists them; empty without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [f"cuda:{index}" for index in range(len(lines))]


def resolve_devices(wanted: str | tuple[str, ...]) -> list[str]:
    """Return the devices that ``execution.devices`` means on this machine, one worker each.

    Raises:
        SpecError: a GPU is asked for that is not here.
    """
    names: list[str] = []
    for entry in (wanted,) if isinstance(wanted, str) else wanted:
        for part in (piece.strip() for piece in entry.split(",")):
            names += (visible_gpus() or ["cpu"]) if part == "auto" else [_full_name(part)]
    gpus = visible_gpus() if any(name.startswith("cuda") for name in names) else []
    for name in names:
        if name.startswith("cuda") and name not in gpus:
            found = ", ".join(gpus) or "none"
            raise SpecError(
                f"device `{name}` is not on this machine (GPUs found: {found})",
                hint='devices = "auto" takes what is there',
            )
    return list(dict.fromkeys(names))


def _full_name(part: str) -> str:
    if part == "cuda":
        return "cuda:0"
    return f"cuda:{part}" if part.isdigit() else part

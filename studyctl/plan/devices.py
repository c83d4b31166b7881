"""Which devices a study runs on, found without importing torch."""

from studyctl.errors import SpecError
from studyctl.gpus import visible_gpus


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

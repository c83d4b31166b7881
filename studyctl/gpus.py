"""The GPUs that torch can use, counted without importing it."""

import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Gpu(NamedTuple):
    """A GPU as the driver lists it."""

    uuid: str
    """``GPU-…``."""
    instances: tuple[str, ...] = ()
    """UUIDs of its MIG instances, ``MIG-…``; it has some only in MIG mode."""


def visible_gpus() -> list[str]:
    """Return ``cuda:0``, ``cuda:1``, ... for the GPUs that CUDA shows to a process of this environment.

    These are those of the driver that ``CUDA_VISIBLE_DEVICES`` names, or all; none if torch is installed and built for CPUs only.
    ``CUDA_DEVICE_ORDER`` decides which GPU a number means, not how many there are.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None or not torch_can_use_gpus():
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    count = count_visible(_parsed(listed.stdout.splitlines()), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return [f"cuda:{index}" for index in range(count)]


def torch_can_use_gpus() -> bool:
    """Return whether the installed torch is built for CUDA; also if none is installed, as on a login node."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return True
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"] is not None


def _parsed(lines: Iterable[str]) -> list[Gpu]:
    """Read ``nvidia-smi -L``: a line for each GPU, and indented below it a line for each MIG instance."""
    gpus: list[Gpu] = []
    for line in lines:
        uuid = re.search(r"\(UUID: ([^)]+)\)", line)
        if line.startswith("GPU ") and uuid:
            gpus.append(Gpu(uuid[1]))
        elif line.lstrip().startswith("MIG ") and uuid and gpus:
            gpus[-1] = gpus[-1]._replace(instances=(*gpus[-1].instances, uuid[1]))
    return gpus


def count_visible(gpus: Sequence[Gpu], chosen: str | None) -> int:
    """Return how many devices CUDA enumerates.

    The rules are those of the CUDA programming guide and of ``torch.cuda.device_count``: the list is read up to the first entry
    that is no device; a device that is named twice leaves none; numbers may be followed by other text. Of MIG instances CUDA
    shows one, and only where no whole GPU is shown.

    Args:
        gpus: What the driver lists.
        chosen: ``CUDA_VISIBLE_DEVICES``; None if it is not set.
    """
    if chosen is None:
        return _whole_or_one(gpus)
    if chosen.startswith("MIG-"):
        return int(_is_instance(chosen.split(",")[0], gpus))
    seen: list[int] = []
    for entry in chosen.split(","):
        index = _index(entry, gpus) if chosen.startswith("GPU-") else _number(entry)
        if index in seen:
            return 0
        if not 0 <= index < len(gpus):
            break
        seen.append(index)
    return _whole_or_one([gpus[index] for index in seen])


def _whole_or_one(gpus: Sequence[Gpu]) -> int:
    return sum(not gpu.instances for gpu in gpus) or min(1, len(gpus))


def _is_instance(name: str, gpus: Sequence[Gpu]) -> bool:
    """Whether a name is the beginning of one instance's UUID, or in the older form ``MIG-GPU-<uuid>/<instance>/<instance>``."""
    names = [instance for gpu in gpus for instance in gpu.instances]
    parents = [gpu.uuid for gpu in gpus if gpu.instances]
    return sum(one.startswith(name) for one in names) == 1 or name[4:].split("/")[0] in parents


def _index(name: str, gpus: Sequence[Gpu]) -> int:
    """Return the place of the only GPU whose UUID begins so; -1 if there is none or several."""
    places = [
        place for place, gpu in enumerate(gpus) if name.startswith("GPU-") and gpu.uuid.startswith(name)
    ]
    return places[0] if len(places) == 1 else -1


def _number(entry: str) -> int:
    """Return the number that an entry begins with, as C's ``strtoul`` reads it; -1 if there is none."""
    number = re.match(r"\s*([+-]?\d+)", entry)
    return int(number[1]) if number else -1

"""A package that is none: its adapter is what a test writes, its environment runs that with the packages of this one."""

import json
import os
import select
import site
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from studyctl.backends.catalog import BACKENDS, Ability, Backend

SECONDS = 60
"""At most so long a step may take on a machine with much to do."""
needs_linux = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="needs Linux, to wait for somebody else's process"
)
RTN = {"method": "rtn", "bits": 4, "group_size": 32, "symmetric": False}
ADAPTER = """
PACKAGES = ("torch",)


def compress(task):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(task.folder / "model.safetensors")
    with task.timed():
        for name, weight in weights.items():
            if name.endswith("proj.weight"):
                threshold = weight.abs().median()
                weights[name] = torch.where(weight.abs() <= threshold, 0.0, weight)
    task.progress(2, 2)
    packed = {name: weight.to(torch.int8) for name, weight in weights.items() if name.endswith("proj.weight")}
    save_file(packed, task.packed / "model.safetensors")
    return weights
"""
"""Zeroes the smaller half of every linear; its packed folder holds a byte a weight."""


def write_script(path: Path, source: str) -> Path:
    """Write a Python source that may be indented as in a test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source), "utf-8")
    return path


def holds(pipe: Path) -> str:
    """Return the source of an adapter that tells its process by a pipe and then stands still, be it asked to end."""
    return f"""
    import os, signal
    PACKAGES = ()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open({str(pipe)!r}, "w") as begun:
        begun.write(str(os.getpid()))
    while True:
        signal.pause()
    """


def starts_another(pipe: Path, then: str = "") -> str:
    """Return the source of an adapter that starts a process, which tells itself by a pipe and stands still."""
    another = (
        "import os, signal\n"
        f"with open({str(pipe)!r}, 'w') as begun: begun.write(str(os.getpid()))\n"
        "print(flush=True)\n"
        "signal.pause()"
    )
    return f"""
    import signal, subprocess, sys
    PACKAGES = ()
    another = subprocess.Popen([sys.executable, "-c", {another!r}], stdout=subprocess.PIPE)
    another.stdout.readline()
    {then}
    """


def starts_another_and_stays(pipe: Path) -> str:
    """Return the source of one that stands still as well."""
    return starts_another(pipe, "signal.pause()")


@contextmanager
def whoever_holds(pipe: Path) -> Iterator[Callable[[], int]]:
    """Yield what waits until somebody tells by a pipe that it stands still, and returns the number of its process."""
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def wait() -> int:
        assert select.select([handle], [], [], SECONDS)[0], "nobody came to hold"
        return int(os.read(handle, 100))

    try:
        yield wait
    finally:
        os.close(handle)


def has_ended(pid: int) -> bool:
    """Wait until a process is gone, whosever child it is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], SECONDS)[0])
    finally:
        os.close(handle)


def make_backend(
    folder: Path, adapter: str = ADAPTER, requirements: str = "fakepkg==1.0\ntorch==1.0\n"
) -> Backend:
    """Write a backend named ``fake``, whose one method is ``rtn``."""
    write_script(folder / "adapter.py", adapter)
    (folder / "requirements.txt").write_text(requirements)
    return Backend("fake", "fakepkg", folder, {"rtn": Ability({"bits": (4,)})}, size_bytes=1000)


def make_environment(name: str, adapter: str = ADAPTER) -> Path:
    """Make what counts as the synced environment of a real backend, but runs this adapter; return the adapter's path."""
    folder = Path(os.environ["STUDYCTL_CACHE"]) / "backends" / name
    script = write_script(folder / "adapter.py", adapter)
    # Called as `python -I -u driver.py <the backend's adapter> [task.json]`.
    python = write_script(
        folder / "bin" / "python",
        f"""\
        #!/bin/sh
        driver=$3; shift 4
        exec "{sys.executable}" -I -u "$driver" "{script}" "$@"
        """,
    )
    python.chmod(0o755)
    about = {"pins": BACKENDS[name].pins_key, "bytes": 1234, "versions": {}}
    (folder / "synced.json").write_text(json.dumps(about))
    return script


UV = """\
#!{python} -I
import json, os, signal, sys
from pathlib import Path

orders = json.loads(Path({orders!r}).read_text())
step = sys.argv[1]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps({{"command": sys.argv[1:], "environment": dict(os.environ)}}) + "\\n")
if step == "venv":
    folder = Path(sys.argv[-1])
    packages = folder / "lib" / "python{version}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "here.pth").write_text("\\n".join({packages!r}))
if orders.get("hold") == step:
    with open({begun!r}, "w") as begun:
        begun.write(str(os.getpid()))
    while True:
        signal.pause()
if step == "venv":
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to({base!r})
    (folder / "pyvenv.cfg").write_text("home = {home}\\n")
if orders.get("fail") == step:
    print(orders["say"])
    sys.exit(2)
"""


class FakeUv:
    """An installer on the PATH that makes an environment in no time, and stops or fails where a test asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = folder / "begun"
        """A pipe: who holds at a step writes the number of its process there."""
        self._orders, self._calls = folder / "orders.json", folder / "calls.jsonl"
        folder.mkdir()
        os.mkfifo(self.begun)
        self.order()
        base = Path(sys.base_exec_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        script = UV.format(
            python=sys.executable,
            orders=str(self._orders),
            calls=str(self._calls),
            begun=str(self.begun),
            version=f"{sys.version_info[0]}.{sys.version_info[1]}",
            packages=site.getsitepackages(),
            base=str(base),
            home=base.parent,
        )
        (folder / "uv").write_text(script)
        (folder / "uv").chmod(0o755)

    def order(self, **orders: str) -> None:
        """Set what it is to do: ``hold`` or ``fail`` at a step, and what to ``say``."""
        self._orders.write_text(json.dumps(orders))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Return how it was called so far."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [json.loads(line) for line in lines]

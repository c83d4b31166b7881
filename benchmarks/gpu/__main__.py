"""``make gpu-check``: does studyctl compute on this GPU what it computes on a CPU, in what time and memory, and what do peers take?

``python -m benchmarks.gpu [MODEL …]`` runs with the torch that is there, and with the wheels of the folder ``gpu-packages`` for what
is missing; it fetches nothing. Every part is a process of its own and prints before the next begins: one that hangs or crashes
costs no other. After eight minutes what still runs is ended. ``--rehearse`` does all of it with tiny models, without a GPU too.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

SECONDS = 480.0
"""For all parts together."""
TEST_SECONDS = 120.0
"""For the tests: what comes after them is worth more."""
ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "gpu-packages"
PARTS = ("tests", "figures", "steps", "peers")
FOLDER, REHEARSAL = "STUDYCTL_GPU_FOLDER", "STUDYCTL_GPU_REHEARSAL"


def main(arguments: Sequence[str]) -> int:
    """Run every part; return how many did not do what they should."""
    begun = time.monotonic()
    models = [str(Path(name).resolve()) for name in arguments if name != "--rehearse"]
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder), rehearsal="--rehearse" in arguments)
        failed = []
        for part in (*PARTS, *models):
            print(f"== {part} (after {time.monotonic() - begun:.0f} s)", flush=True)
            left = begun + SECONDS - time.monotonic()
            if (how := _run(part, environment, min(left, TEST_SECONDS) if part == "tests" else left)) != "":
                failed.append(part)
                print(f"!! {part}: {how}", flush=True)
    print(
        f"{time.monotonic() - begun:.0f} s; " + (f"failed: {', '.join(failed)}" if failed else "all is well")
    )
    return len(failed)


def _environment(folder: Path, *, rehearsal: bool) -> dict[str, str]:
    """Return the environment of parts: the checkout, what was carried beside it, and a cache of their own."""
    carried = folder / "packages"
    carried.mkdir()
    for wheel in sorted(WHEELS.glob("*.whl")):
        if _is_installed(wheel.name.partition("-")[0]):
            continue  # the wheels may be of another Python
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(carried)
    paths = [str(ROOT), str(ROOT / "tui"), str(carried), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "STUDYCTL_CACHE": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "data"),
        FOLDER: str(folder),
        REHEARSAL: "1" if rehearsal else "",
    }


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _run(part: str, environment: dict[str, str], seconds: float) -> str:
    """Run a part in a session of its own for so long at most; return what went wrong, or nothing."""
    if seconds <= 0:
        return "no time was left"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu.part", part], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"ended after {seconds:.0f} s"
    finally:
        # Its studies are of the same session.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "" if code == 0 else f"ended with {code}"


if __name__ == "__main__":
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        sys.exit(f"{sys.executable} has no {' and no '.join(missing)}; PYTHON=… names another one")
    sys.exit(main(sys.argv[1:]))

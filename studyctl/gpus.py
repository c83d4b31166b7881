"""The GPUs of this machine, found without importing torch."""

import shutil
import subprocess


def visible_gpus() -> list[str]:
    """Return ``cuda:0``, ``cuda:1``, ... as the NVIDIA driver lists them; empty without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [f"cuda:{index}" for index in range(len(lines))]

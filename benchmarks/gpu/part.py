"""One part of the check: ``python -m benchmarks.gpu.part <part or folder of a model>``."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from benchmarks.gpu import figures, peers, steps
from benchmarks.gpu.__main__ import FOLDER, REHEARSAL, ROOT
from benchmarks.gpu.made import ONE_AND_A_HALF, TENTH, TINY, make_model, make_texts


def main(part: str) -> bool:
    """Run a part; return whether it is as it should be."""
    rehearsal, folder = bool(os.environ[REHEARSAL]), Path(os.environ[FOLDER])
    has_gpu = torch.cuda.is_available()
    device = "cuda:0" if has_gpu else "cpu"
    if not has_gpu and not rehearsal:
        sys.exit(f"torch {torch.__version__} sees no CUDA device; --rehearse runs tiny models on the CPU")
    if part == "tests":
        if has_gpu:
            subprocess.run(["nvidia-smi", "-L"], check=True)
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        print(f"{device}; {versions}, Python {platform.python_version()}", flush=True)
        return _tests()
    if part == "figures":
        (folder / part).mkdir()
        return figures.main(folder / part, TINY if rehearsal else TENTH, device)
    size = TINY if rehearsal else ONE_AND_A_HALF
    if not (folder / "large").exists():
        make_model(folder / "large", size, device)
        make_texts(folder / "texts", size)
    if part == "steps":
        return steps.main(folder, folder / "large", folder / "texts", size, device, part)
    if part == "peers":
        return peers.main(folder / "large", folder / "texts", size, device)
    return steps.main(folder, Path(part), folder / "texts", size, device, Path(part).name)


def _tests() -> bool:
    import pytest

    # Without the project's configuration, which asks for plugins that are not everywhere.
    options = ["-v", "--tb=short", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    return pytest.main([*options, str(ROOT / "tests" / "gpu")]) in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1]) else 1)

"""Runs inside a backend's own environment: hands a task to that backend's adapter and reports progress and result.

``python -I driver.py <adapter.py> [<task.json>]``; without a task it only imports the package. It imports nothing of studyctl, only
what every backend installs: torch, transformers, safetensors, numpy. It writes records, one JSON object per line, to its original
stdout; whatever the package prints is written to stderr. It ends when its stdin is closed, which means that its worker is gone.

An adapter has ``PACKAGES``, whose versions are reported, and ``compress(task)``, which leaves the package's own packed checkpoint
in ``task.packed`` and returns the dequantised weights by their names in the dense model.
"""

import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ORPHANED = 70
"""Exit code if the worker is gone."""
FAILED = 1


class Task:
    """What an adapter has to do."""

    def __init__(self, values: Mapping[str, Any], report: Callable[..., None]) -> None:
        import numpy
        import torch

        self.folder = Path(values["model"])
        """The dense model: config, safetensors, tokenizer."""
        self.method: str = values["method"]
        self.options: dict[str, Any] = values["options"]
        """Of the method, by their names in a spec."""
        path = values["ids"]
        self.ids: Any = (
            None if path is None else torch.from_numpy(numpy.load(path, allow_pickle=False).astype("int64"))
        )
        """int64 ``[samples, tokens]``, or None for methods without data."""
        self.dtype = getattr(torch, values["dtype"])
        self.device: str = values["device"]
        self.packed = Path(values["out"]) / "packed"
        self.seconds = 0.0
        """Time spent within :meth:`timed`."""
        self.peak_bytes = 0
        """Peak resident memory within :meth:`timed`."""
        self._report = report

    @property
    def rows(self) -> list[dict[str, list[int]]]:
        """Return the calibration windows as most packages expect them: a row each, without padding; empty without data."""
        ids = self.ids.tolist() if self.ids is not None else []
        return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids]

    def blocks(self, model: Any) -> int:
        """Return the number of decoder blocks of a model."""
        return len(decoder_blocks(model))

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Report how many of the decoder blocks are compressed."""
        self._report("progress", done=done, total=total, unit="block", note=note)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure time and memory of the compression alone, without loading and saving."""
        # The peak is reset, and the memory that loading and checking the dense model freed is returned first.
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.peak_bytes = max(self.peak_bytes, _peak_bytes())

    def follow(self, model: Any) -> None:
        """Report progress whenever tokens reach a decoder block for the first time."""
        blocks = decoder_blocks(model)
        seen: set[int] = set()

        def enter(index: int) -> None:
            if index not in seen:
                seen.add(index)
                self.progress(index, len(blocks))

        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, index=index: enter(index))


def decoder_blocks(model: Any) -> Any:
    """Return the module list of the decoder blocks: the one with the most parameters."""
    import torch

    lists = (part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    return max(lists, key=lambda part: sum(parameter.numel() for parameter in part.parameters()))


def main() -> None:
    """Run one task; whatever goes wrong is reported before the process ends."""
    records = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_worker, daemon=True).start()

    def report(kind: str, **fields: object) -> None:
        os.write(records, json.dumps({"kind": kind, **fields}).encode() + b"\n")

    try:
        values = json.loads(Path(sys.argv[2]).read_text("utf-8")) if len(sys.argv) > 2 else None
        _run(Path(sys.argv[1]), values, report)
    except ReadOtherwiseError as error:
        report("failed", error=str(error), cause="read_otherwise")
        os._exit(FAILED)
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
        sys.stderr.flush()
        os._exit(FAILED)  # the package has said why
    except BaseException as error:
        traceback.print_exc()
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        report("failed", error=words, cause=_cause(error))
        sys.stderr.flush()
        os._exit(FAILED)
    sys.stderr.flush()
    os._exit(0)  # some packages leave threads behind that would keep the process


def _run(adapter_path: Path, values: dict[str, Any] | None, report: Callable[..., None]) -> None:
    if values is None or not values["network"]:
        _forbid_network()
    spec = importlib.util.spec_from_file_location("adapter", adapter_path)
    assert spec is not None
    assert spec.loader is not None
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    report("versions", versions={name: importlib.metadata.version(name) for name in adapter.PACKAGES})
    if values is None:
        return
    import torch

    torch.set_num_threads(values["threads"])
    task = Task(values, report)
    _check_dense(task, values["dense"])
    task.packed.mkdir(parents=True)
    weights = adapter.compress(task)
    _write_plain(Path(values["out"]) / "plain.safetensors", weights, task.dtype)
    report("done", seconds=task.seconds, peak_memory_bytes=task.peak_bytes)


class ReadOtherwiseError(Exception):
    """This environment reads another dense model from the same files."""


def _check_dense(task: Task, expected: Mapping[str, Any]) -> None:
    """Refuse a dense model that computes something else here: an older transformers may misread what a newer one saved.

    Raises:
        ReadOtherwiseError: the mean nll of the windows is not the worker's.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        task.folder,
        torch_dtype=task.dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    model.to(task.device).eval()
    nll = mean_nll(model, torch.tensor(expected["windows"]), task.device)
    del model
    gc.collect()
    if not abs(nll - expected["nll_nats"]) <= expected["tolerance_nats"]:
        raise ReadOtherwiseError(
            f"its transformers reads the dense model otherwise: nll {nll:.4f} instead of {expected['nll_nats']:.4f} nats"
        )


def mean_nll(model: Any, windows: Any, device: str) -> float:
    """Return the mean nll per token, in nats, by the one definition that worker and environment compare.

    Args:
        model: a causal model of transformers, on the device.
        windows: int64 ``[windows, tokens]``.
        device: ``cpu``, ``cuda:0`` ...
    """
    import torch

    total = 0.0
    with torch.no_grad():
        for window in windows.to(device):
            logits = model(window[None]).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, window[1:]))
    return total / len(windows)


def _write_plain(path: Path, weights: Mapping[str, Any], dtype: Any) -> None:
    from safetensors.torch import save_file

    first: dict[int, str] = {}  # tied weights are stored once, by the first of their names
    distinct = {
        name: value for name, value in weights.items() if first.setdefault(value.data_ptr(), name) == name
    }
    save_file({name: value.detach().to("cpu", dtype).contiguous() for name, value in distinct.items()}, path)


def _forbid_network() -> None:
    """Refuse every connection that Python code of this process tries to make."""

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and args[0].family == getattr(socket, "AF_UNIX", None):
            return  # processes of the package talk to each other
        if event in ("socket.connect", "socket.getaddrinfo"):
            raise PermissionError(
                f"network access is not allowed here: {event} {args[1:2] if event == 'socket.connect' else args[:1]}"
            )

    sys.addaudithook(refuse)


def _end_with_worker() -> None:
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():  # started by a worker: whatever the package started ends too
        os.killpg(0, signal.SIGKILL)
    os._exit(ORPHANED)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        (kibibytes,) = re.findall(r"VmHWM:\s+(\d+)", status.read_text())
        return int(kibibytes) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cause(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "not_imported"
    words = str(error)
    is_out_of_memory = (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate memory" in words
        or "not enough memory" in words
    )
    return "out_of_memory" if is_out_of_memory else "error"


if __name__ == "__main__":
    main()

"""The step ``compress`` by another package: writing its input, calling it, and reading the weights that it returns."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from studyctl.backends.catalog import BACKENDS
from studyctl.backends.driver import mean_nll
from studyctl.backends.environments import environment
from studyctl.backends.exchange import DriverCause, Outcome, call_driver
from studyctl.compress.walk.architectures import block_linears, block_parameters
from studyctl.compress.walk.statistics import is_finite
from studyctl.compress.walk.walker import mean_bits, zero_fraction
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.contract.job import Job
from studyctl.contract.methods import Quantization
from studyctl.errors import FailureCause, StepError
from studyctl.export.folder import copy_beside, keys_of_older_loaders
from studyctl.export.trial import files_to_copy
from studyctl.files import StudyPaths, open_to_umask
from studyctl.sources.models import LoadedModel, planned_files
from studyctl.sources.safetensors_files import INDEX, weight_files
from studyctl.sources.unpacking import stored_bits
from studyctl.work.memory import OUT_OF_MEMORY_HINT, OomKills
from studyctl.work.recorder import Recorder

CHECK_WINDOWS, CHECK_TOKENS = 2, 512
"""Size of the check that the dense model gives the same nll in the package's process as here."""
TOLERANCE_NATS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""Allowed difference of the mean nll per token: kernels sum in another order. A wrong ``rope_theta`` differs by more."""
CAUSES = {
    DriverCause.KILLED: FailureCause.KILLED,
    DriverCause.OUT_OF_MEMORY: FailureCause.OUT_OF_MEMORY,
}


def compress_with_backend(
    job: Job, loaded: LoadedModel, ids: np.ndarray | None, recorder: Recorder
) -> tuple[Compressed, Outcome]:
    """Let the job's backend compress the dense model, and copy the weights that it returns into the model in memory.

    Args:
        job: the trial; its backend is another package.
        loaded: the dense model.
        ids: calibration windows ``[samples, tokens]``; None for methods without data.
        recorder: receives its progress.

    Raises:
        StepError: the environment is missing or broken, or the package reads another model, fails, or changes what it must not.
    """
    backend = BACKENDS[job.backend]
    installed = environment(backend)
    if installed.state != "synced":
        hint = f"`studyctl backends sync {backend.name}` makes it"
        raise StepError(f"the environment of {backend.name} is {installed.state}", hint=hint)
    paths = StudyPaths(job.root)
    log = paths.attempt_log(job.trial, job.attempt)
    packed = paths.packed_weights(job.weights_key)
    packed.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".handed-{job.weights_key}-"
    for leftover in packed.parent.glob(
        f"{prefix}*"
    ):  # of an attempt that was killed, or is lost and may still write
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=packed.parent, prefix=prefix) as scratch:
        task = _task(job, loaded, ids, Path(scratch))
        # The package reads the planned files through links.
        with _gpu_left_to_others(loaded), planned_files(loaded.identity):
            kills = OomKills()
            outcome = call_driver(
                installed.python,
                backend.adapter,
                task,
                log=log,
                hear=lambda heard: recorder.progress(
                    heard["done"], heard["total"], heard["unit"], heard["note"]
                ),
                meanwhile=recorder.check_stop,
            )
        if outcome.failure is not None:
            raise _failure(job, outcome, kills.count() > 0, log)
        out = Path(task["out"])
        compressed = _read_weights(job, loaded.model, out)
        shutil.rmtree(packed, ignore_errors=True)
        open_to_umask(out / "packed")
        (out / "packed").rename(packed)
    return compressed, outcome


def _task(job: Job, loaded: LoadedModel, ids: np.ndarray | None, scratch: Path) -> dict[str, Any]:
    """Write the files that the package reads, and return its task (see :class:`studyctl.backends.driver.Task`)."""
    hand_over(loaded, scratch / "model")
    if ids is not None:
        np.save(scratch / "ids.npy", ids.astype(np.int32))
    return {
        "model": str(scratch / "model"),
        "ids": str(scratch / "ids.npy") if ids is not None else None,
        "method": job.method,
        "options": job.settings.model_dump(mode="json"),
        "dtype": job.dtype,
        "device": job.device,
        "threads": job.threads,
        "out": str(scratch / "out"),
        "network": job.backend_network,
        "dense": expected_nll(loaded, ids),
    }


def hand_over(loaded: LoadedModel, folder: Path) -> None:
    """Write a folder that older transformers read as the same model; its weights are links to the dense model's files."""
    folder.mkdir(parents=True)
    config = json.loads((loaded.folder / "config.json").read_text("utf-8"))
    config.pop("auto_map", None)  # a repository's code is never run
    (folder / "config.json").write_text(json.dumps(config | keys_of_older_loaders(config), indent=2), "utf-8")
    weights = weight_files(loaded.folder, allow_pickle=loaded.allow_pickle)
    if any(path.suffix != ".safetensors" for path in weights):  # pickle is never handed over
        loaded.model.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    else:
        for path in (*weights, loaded.folder / INDEX):
            if path.exists():
                (folder / path.name).symlink_to(path.resolve())
    with files_to_copy(loaded) as files:
        copy_beside(files, folder)


def expected_nll(loaded: LoadedModel, ids: np.ndarray | None) -> dict[str, Any]:
    """Return windows, the dense model's mean nll on them as computed here, and the allowed difference."""
    if ids is not None:
        windows = torch.from_numpy(ids[:CHECK_WINDOWS, :CHECK_TOKENS].astype(np.int64))
    else:
        size = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        windows = (torch.arange(CHECK_WINDOWS * 128) * 7919 % size).reshape(CHECK_WINDOWS, 128)
    return {
        "windows": windows.tolist(),
        "nll_nats": mean_nll(loaded.model, windows, loaded.device),
        "tolerance_nats": TOLERANCE_NATS[loaded.dtype],
    }


@contextmanager
def _gpu_left_to_others(loaded: LoadedModel) -> Iterator[None]:
    """Move a model from its GPU to the host while the block runs."""
    if not loaded.device.startswith("cuda"):
        yield
        return
    loaded.model.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        loaded.model.to(loaded.device)


def _failure(job: Job, outcome: Outcome, killed_for_memory: bool, log: Path) -> StepError:
    """Return the error for a failed call, with the package's own message."""
    cause, reason = outcome.cause or DriverCause.ERROR, outcome.failure
    if cause is DriverCause.KILLED and killed_for_memory:
        cause, reason = DriverCause.OUT_OF_MEMORY, "the kernel killed it: out of memory"
    printed = f"its whole output is in {log}"
    hints = {
        DriverCause.ERROR: printed,
        DriverCause.KILLED: printed,
        DriverCause.NOT_IMPORTED: f"if its environment is broken, `studyctl backends remove {job.backend}` and then "
        f"`studyctl backends sync {job.backend}` make it again; {printed}",
        DriverCause.OUT_OF_MEMORY: OUT_OF_MEMORY_HINT,
        DriverCause.READ_OTHERWISE: "its transformers is too old for this model's files and would compress a different model",
    }
    return StepError(
        f"{job.backend} {BACKENDS[job.backend].version}: {reason}",
        hint=hints[cause],
        cause=CAUSES.get(cause, FailureCause.ERROR),
    )


@torch.no_grad()
def _read_weights(job: Job, model: nn.Module, out: Path) -> Compressed:
    """Copy the returned weights into the model, after checking that they fit it and that nothing else changed.

    Raises:
        StepError: a weight is missing, has another shape or is not finite, or something outside the decoder blocks changed.
    """
    inside, linears = block_parameters(model), block_linears(model)
    with safe_open(out / "plain.safetensors", framework="pt") as file:
        _check_fit(job, model, file)
        changed = {}
        for name in inside.keys() & set(file.keys()):
            value = file.get_tensor(name).to(inside[name].device)
            if name.removesuffix(".weight") in linears or not torch.equal(value, inside[name]):
                inside[name].copy_(value)
                changed[name] = inside[name].data
    compressed = {name: CompressedLinear(changed.pop(f"{name}.weight")) for name in linears}
    settings = job.settings
    bits = stored_bits(model, out / "packed") if isinstance(settings, Quantization) else None
    if bits is None:
        bits = mean_bits(settings, model)
    return Compressed(settings, compressed, bits, zero_fraction(model), changed)


def _check_fit(job: Job, model: nn.Module, file: Any) -> None:
    names, inside = set(file.keys()), block_parameters(model)
    if missing := [name for name in block_linears(model) if f"{name}.weight" not in names]:
        raise _bad_output(job, f"it returned no weight of `{missing[0]}`")
    for name, parameter in model.named_parameters(
        remove_duplicate=False
    ):  # a package may untie what is tied here
        if name not in names:
            continue
        value = file.get_tensor(name)
        if value.shape != parameter.shape:
            raise _bad_output(job, f"`{name}` is {list(value.shape)} there and {list(parameter.shape)} here")
        if not is_finite(value):
            raise _bad_output(job, f"`{name}` is not finite")
        if name not in inside and not torch.equal(value.to(parameter.device), parameter):
            raise _bad_output(job, f"it changed `{name}`, which is outside of the decoder blocks")


def _bad_output(job: Job, reason: str) -> StepError:
    return StepError(
        f"{job.backend} {BACKENDS[job.backend].version}: {reason}",
        hint="this package does not handle this model family correctly: its figures would mean nothing",
    )

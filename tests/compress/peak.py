"""Peak memory of compressing a random model and storing its weights, in a process of its own: ``python -m tests.compress.peak CASE``.

CASE is JSON: ``model_type`` and ``config`` of a model in bfloat16, ``settings`` of a method, ``samples`` and ``tokens`` of its
calibration, ``threads``. Prints what was foretold and what it took, as JSON.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from studyctl.compress.walk.architectures import block_linears
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.stored import save
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.limits import block_batch_tokens
from studyctl.contract.methods import MethodSettings, settings_of
from studyctl.plan.compressing import compressing_bytes
from studyctl.plan.memory import RUNTIME_BYTES
from studyctl.reporter import SilentReporter
from studyctl.work.memory import keep_freed_memory, peak_bytes, reset_peak

WIDTHS = {"bfloat16": 2, "float32": 4}
"""Bytes of a number."""
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
"""Sizes of a model that is compressed first: what libraries and compiled kernels take when they are first used differs between
processors, and by whether the kernels had been compiled before."""
CHECKOUT = Path(__file__).parents[2]


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Run a case in another process.

    Returns:
        ``peak_foretold`` and ``peak``, bytes of the whole process; ``working_foretold`` and ``working``, of that what this model took
        beside its weights, with the libraries there already; ``weights``, bytes of the model; ``seconds``.
    """
    command = [sys.executable, "-m", "tests.compress.peak", json.dumps(case)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Case:
    """What is compressed, and how."""

    model_type: str
    config: dict[str, Any]
    settings: MethodSettings
    windows: CalibrationData
    batch_tokens: int
    dtype: str = "bfloat16"

    def random_model(self, sizes: dict[str, int]) -> PreTrainedModel:
        """Return a model with other sizes than the case's where they are given."""
        config = AutoConfig.for_model(self.model_type, **self.config | sizes)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype))

    def foretold(self, model: PreTrainedModel) -> int:
        """Return what the plan says that compressing takes beside the weights."""
        config = model.config
        identity = ModelIdentity(
            "random",
            "folder",
            "random",
            config={"model_type": self.model_type},
            linears={
                name: (part.out_features, part.in_features) for name, part in block_linears(model).items()
            },
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
        )
        return compressing_bytes(
            identity, self.settings, self.windows, width=WIDTHS[self.dtype], batch_tokens=self.batch_tokens
        )

    def compress_and_store(self, model: PreTrainedModel) -> None:
        """Do what a worker's stage does."""
        ids = torch.randint(model.config.vocab_size, (self.windows.samples, self.windows.sequence_length))
        compressed = compress(
            model, self.settings, ids, batch_tokens=self.batch_tokens, reporter=SilentReporter()
        )
        with TemporaryDirectory() as folder:
            save(Path(folder) / "weights", compressed)


def read_case(given: dict[str, Any]) -> Case:
    """Return the case that a process was started with."""
    settings = settings_of(given["settings"])
    assert isinstance(settings, MethodSettings)
    return Case(
        given["model_type"],
        given["config"],
        settings,
        CalibrationData(samples=given["samples"], sequence_length=given["tokens"]),
        block_batch_tokens("cpu"),
        given.get("dtype", "bfloat16"),
    )


def peaks(case: Case) -> dict[str, float]:
    """Compress a small model, then that of the case; see :func:`measure`."""
    small = case.random_model(SMALL)
    case.compress_and_store(small)
    libraries = case.foretold(small)
    del small

    model = case.random_model({})
    weights = sum(parameter.numel() for parameter in model.parameters()) * WIDTHS[case.dtype]
    reset_peak()
    before, begun = peak_bytes(), time.perf_counter()
    case.compress_and_store(model)
    peak = peak_bytes()
    return {
        "peak_foretold": RUNTIME_BYTES + weights + case.foretold(model),
        "peak": peak,
        "working_foretold": case.foretold(model) - libraries,
        "working": peak - before,
        "weights": weights,
        "seconds": time.perf_counter() - begun,
    }


def main(given: dict[str, Any]) -> dict[str, float]:
    keep_freed_memory()  # as a worker does
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    return peaks(read_case(given))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))

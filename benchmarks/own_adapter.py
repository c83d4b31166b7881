"""studyctl's own engine as an adapter, so that it is timed and measured by the same driver as the packages."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from studyctl.compress.walk.walker import compress as walk
from studyctl.contract.limits import block_batch_tokens
from studyctl.contract.methods import METHODS
from studyctl.reporter import SilentReporter
from studyctl.work.memory import keep_freed_memory

PACKAGES = ("studyctl", "transformers", "torch")
COMPILED = ("sparsegpt", "gptq", "awq")
"""Methods with kernels that numba compiles."""


def compress(task: Any) -> Mapping[str, torch.Tensor]:
    """Compress as a worker does."""
    keep_freed_memory()
    if task.method in COMPILED:
        _import_kernels()
    model = AutoModelForCausalLM.from_pretrained(task.folder, dtype=task.dtype).to(task.device).eval()
    model.requires_grad_(False)
    settings = METHODS[task.method].settings.model_validate(task.options)
    with task.timed():
        walk(
            model, settings, task.ids, batch_tokens=block_batch_tokens(task.device), reporter=SilentReporter()
        )
    weights: Mapping[str, torch.Tensor] = model.state_dict()
    return weights


def _import_kernels() -> None:
    """Import them before the clock starts, as the packages import what they need; most of numba waits for the first call."""
    from numba.core.registry import cpu_target

    from studyctl.compress.sweep import kernels  # noqa: F401

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()

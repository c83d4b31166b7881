"""GPTQModel: ``gptq`` and ``rtn``, on CPU and GPU."""

import os
from collections.abc import Mapping
from typing import Any

# If the package would choose one CPU worker, its loader, which needs two, fails.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(min(12, max(2, ((os.cpu_count() or 1) + 1) // 2))))

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.quantization import GPTQConfig, RTNConfig

PACKAGES = ("gptqmodel", "transformers", "torch")


def compress(task: Any) -> Mapping[str, torch.Tensor]:
    """Quantize with the package, save its packed checkpoint, load that as a user would, and return the unpacked weights."""
    model = GPTQModel.from_pretrained(
        str(task.folder), _config(task), trust_remote_code=False, dtype=task.dtype
    )
    model.layer_callback = _Callback(task, task.blocks(model.model))
    with task.timed():
        model.quantize(task.rows, calibration_sort=None, batch_size=1, backend=BACKEND.TORCH)
    model.save(str(task.packed))
    del model
    loaded = GPTQModel.load(
        str(task.packed),
        device="cpu",
        backend=BACKEND.TORCH,
        dtype=torch.float16,  # its kernels have no float32; only the packed linears are used
        trust_remote_code=False,
    )
    return {
        f"{name}.weight": _unpacked(module)
        for name, module in loaded.model.named_modules()
        if hasattr(module, "qweight")
    }


class _Callback:
    """Reports every finished block."""

    def __init__(self, task: Any, blocks: int) -> None:
        self._task = task
        self._blocks = blocks

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool, **_: Any) -> None:
        if submodule_finalized:
            self._task.progress(layer_idx + 1, self._blocks)


def _config(task: Any) -> Any:
    options = task.options
    shared = {
        "bits": options["bits"],
        "group_size": options["group_size"] or -1,
        "sym": options["symmetric"],
        "offload_to_disk": False,
        "device": task.device,
    }
    if task.method == "rtn":
        return RTNConfig(**shared)
    return GPTQConfig(
        **shared,
        desc_act=options["act_order"],
        act_group_aware=False,  # it reorders columns, which in a spec is act_order
        static_groups=options["static_groups"],
        damp_percent=options["damping"],
    )


def _unpacked(module: Any) -> torch.Tensor:
    """Return the weight ``[out, in]`` in float32: ``(codes − zero points) · stored scales``."""
    module.scales = module.scales.float()
    weight: torch.Tensor = module.dequantize_weight().T
    return weight

"""AutoGPTQ: ``gptq``, on GPUs only."""

from collections.abc import Mapping
from typing import Any

import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig

PACKAGES = ("auto-gptq", "transformers", "torch")


def compress(task: Any) -> Mapping[str, torch.Tensor]:
    """Quantize with the package, save its packed checkpoint, and return the unpacked weights."""
    options = task.options
    model = AutoGPTQForCausalLM.from_pretrained(
        str(task.folder),
        BaseQuantizeConfig(
            bits=options["bits"],
            group_size=options["group_size"] or -1,
            sym=options["symmetric"],
            desc_act=options["act_order"],
            static_groups=options["static_groups"],
            damp_percent=options["damping"],
        ),
        torch_dtype=task.dtype,
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
    )
    task.follow(model.model)
    with task.timed():
        model.quantize(task.rows, batch_size=1)
    model.save_quantized(str(task.packed), use_safetensors=True)
    return {
        f"{name}.weight": unpacked(module, options["bits"])
        for name, module in model.model.named_modules()
        if hasattr(module, "qweight")
    }


def unpacked(module: Any, bits: int) -> torch.Tensor:
    """Return the weight ``[out, in]`` in float32: ``(codes − zero points) · stored scales``."""
    codes = _codes(module.qweight, bits)
    zero_points = (_codes(module.qzeros.T, bits).T + 1) & (2**bits - 1)  # the format stores them minus one
    groups = module.g_idx.long()
    weight: torch.Tensor = ((codes - zero_points[groups]) * module.scales.float()[groups]).T
    return weight


def _codes(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the codes ``[words * 32 / bits, columns]`` that int32 ``[words, columns]`` hold, lowest bits first."""
    places = torch.arange(32, device=words.device)[None, :, None]
    stream = ((words[:, None, :] >> places) & 1).reshape(-1, bits, words.shape[1])
    return (stream << torch.arange(bits, device=words.device)[None, :, None]).sum(1)

"""AutoAWQ: ``awq`` with 4 bits. Searches scales by the output of the whole module; packs for GEMM kernels."""

from collections.abc import Mapping
from typing import Any

import torch
from awq import AutoAWQForCausalLM
from awq.quantize.quantizer import AwqQuantizer
from awq.utils.packing_utils import dequantize_gemm

PACKAGES = ("autoawq", "transformers", "torch")


def compress(task: Any) -> Mapping[str, torch.Tensor]:
    """Quantize with the package, save its packed checkpoint, and return the unpacked weights: packed ones run only on GPUs."""
    options = task.options
    model = AutoAWQForCausalLM.from_pretrained(
        str(task.folder),
        safetensors=True,
        torch_dtype=task.dtype,
        trust_remote_code=False,
        device_map=None,
        low_cpu_mem_usage=False,
        use_cache=False,
    )

    class Followed(AwqQuantizer):  # type: ignore[misc]
        """Reports every finished block."""

        def _apply_quant(self, module: torch.nn.Module, named_linears: dict[str, torch.nn.Linear]) -> None:
            super()._apply_quant(module, named_linears)
            task.progress(list(self.modules).index(module) + 1, len(self.modules))

    with task.timed():
        model.quantize(
            None,
            quant_config={
                "zero_point": not options["symmetric"],
                "q_group_size": options["group_size"] or -1,
                "w_bit": options["bits"],
                "version": "GEMM",
            },
            calib_data=task.ids.tolist(),
            duo_scaling=options["weight_term"],
            apply_clip=options["clip"],
            max_calib_samples=len(task.ids),
            max_calib_seq_len=task.ids.shape[1],
            quantizer_cls=Followed,
        )
    model.save_quantized(str(task.packed))
    return _unpacked(model.model)


def _unpacked(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    packed = {name: module for name, module in model.named_modules() if hasattr(module, "qweight")}
    weights = {
        name: value for name, value in model.state_dict().items() if name.rpartition(".")[0] not in packed
    }
    for name, module in packed.items():
        unpacked = dequantize_gemm(
            module.qweight, module.qzeros, module.scales, module.w_bit, module.group_size
        )
        weights[f"{name}.weight"] = unpacked.T
        if module.bias is not None:
            weights[f"{name}.bias"] = module.bias
    return weights

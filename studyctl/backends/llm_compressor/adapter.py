"""llm-compressor: ``gptq``, ``sparsegpt``, ``wanda``, ``rtn`` and, on a GPU, ``awq``.

``lm_head`` is never compressed, as in the papers' code. By default the package prunes it, and with it the embeddings of a model
that ties the two.
"""

from collections.abc import Mapping
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch")
_IGNORED = ["re:.*lm_head.*"]
"""A pattern, since the package matches the name with a dot after it if the linear itself is the target."""


def compress(task: Any) -> Mapping[str, torch.Tensor]:
    """Run the method's modifier on the calibration ids, block by block."""
    model = AutoModelForCausalLM.from_pretrained(
        task.folder,
        dtype=task.dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    ).to(task.device)
    tokenizer = AutoTokenizer.from_pretrained(task.folder, local_files_only=True, trust_remote_code=False)
    task.follow(model)
    data: dict[str, Any] = {}
    if rows := task.rows:
        data = {
            "dataset": Dataset.from_list(rows),
            "num_calibration_samples": len(rows),
            "max_seq_length": task.ids.shape[1],
            "shuffle_calibration_samples": False,
        }
    with task.timed():
        oneshot(model=model, tokenizer=tokenizer, recipe=_recipe(task), **data)
    weights = _unpacked(model)
    model.save_pretrained(task.packed, save_compressed=True)
    return weights


def _recipe(task: Any) -> list[Any]:
    options = task.options
    if task.method in ("sparsegpt", "wanda"):
        pruned: dict[str, Any] = {"ignore": _IGNORED, "targets": ["Linear"]}
        if options["pattern"] is not None:
            kept, group = map(int, options["pattern"].split(":"))
            # n of n:m counts the zeros in the package, and what is kept in a spec.
            pruned |= {"sparsity": 1 - kept / group, "mask_structure": f"{group - kept}:{group}"}
        else:
            pruned |= {"sparsity": options["sparsity"]}
        if task.method == "wanda":
            return [WandaPruningModifier(**pruned)]
        return [
            SparseGPTModifier(**pruned, block_size=options["block_size"], dampening_frac=options["damping"])
        ]
    quantized = {"ignore": _IGNORED, "config_groups": {"group_0": _scheme(options)}}
    if task.method == "gptq":
        return [
            GPTQModifier(
                **quantized,
                actorder="static" if options["act_order"] else None,
                block_size=options["block_size"],
                dampening_frac=options["damping"],
            )
        ]
    if task.method == "awq":
        scales = AWQModifier(duo_scaling=options["weight_term"])
        return [scales, QuantizationModifier(**quantized)]
    return [QuantizationModifier(**quantized)]


def _scheme(options: Mapping[str, Any]) -> QuantizationScheme:
    size = options["group_size"]
    return QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=options["bits"],
            symmetric=options["symmetric"],
            strategy="group" if size else "channel",
            group_size=size or None,
        ),
    )


def _unpacked(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the rounded weights and all other parameters, without those of the rounding itself."""
    weights = {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        for part, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if scheme is None or part == "bias":
                weights[f"{name}.{part}".removeprefix(".")] = value
        if scheme is not None:
            rounded = fake_quantize(
                module.weight,
                module.weight_scale,
                getattr(module, "weight_zero_point", None),
                scheme.weights,
            )
            weights[f"{name}.weight"] = rounded
    return weights

"""Checkpoints, which are published compressed models: their identity, how weights are stored, and whether these can be read here."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.model_files import identify_model
from studyctl.sources.packages import PREFIX
from studyctl.spec.models import Model

PLAIN = "plain"
"""Weights stored as in any model: pruned ones, or rounded ones in 16 bits."""
COMPRESSED_TENSORS = "compressed-tensors"
_PACKAGES: dict[str, dict[str, str]] = {
    PLAIN: {},
    COMPRESSED_TENSORS: {"compressed_tensors": "compressed-tensors==0.17.1"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "awq": {"gptqmodel": "gptqmodel", "accelerate": "accelerate"},
}
"""Modules that transformers needs to read a storage format -> what to install for them."""


def identify_checkpoint(settings: Checkpoint, base: Path) -> ModelIdentity:
    """Return the identity of a checkpoint.

    Its key is never that of a model with the same files, since the weights that are loaded may differ.

    Args:
        settings: its table.
        base: folder that a relative path is resolved against.

    Raises:
        StudyError: it is missing, gated, no decoder, incomplete, pickle only, or stored in a way that cannot be read here.
    """
    if settings.id.startswith(PREFIX):
        raise StudyError(
            f"a checkpoint is a folder or a model of the hub: `{settings.id}` is neither",
            hint="name the file in `[[models]]` to measure it as a model of its own",
        )
    model = Model(id=settings.id, revision=settings.revision)
    identity = identify_model(model, base, needs_tokenizer=False)
    check_storage(identity.config, settings.id)
    return identity if identity.key is None else replace(identity, key=digest(["checkpoint", identity.key]))


def storage_format(config: Mapping[str, Any]) -> str:
    """Return how weights are stored, by their config: ``plain``, or the name of a quantization format."""
    quantization = _quantization(config)
    if not quantization:
        return PLAIN
    old_bitsandbytes = quantization.get("load_in_4bit") or quantization.get("load_in_8bit")
    return str(quantization.get("quant_method") or ("bitsandbytes" if old_bitsandbytes else "unnamed"))


def check_storage(config: Mapping[str, Any], where: str) -> None:
    """Refuse weights that cannot be read here, or that would be read wrongly.

    Raises:
        StudyError: the format is not supported, or needs a package that is not installed.
    """
    method = storage_format(config)
    if method not in _PACKAGES:
        raise StudyError(
            f"`{where}` is stored in the format `{method}`, which cannot be read",
            hint="plain weights, compressed-tensors, gptq and awq can be read",
        )
    if reason := _misread(method, _quantization(config)):
        raise StudyError(f"`{where}` {reason}")
    missing = [package for module, package in _PACKAGES[method].items() if find_spec(module) is None]
    if missing:
        raise StudyError(
            f"`{where}` is stored in the format `{method}`, which needs {' and '.join(missing)}",
            hint=f"pip install {' '.join(missing)}",
        )


def storage_caveats(config: Mapping[str, Any]) -> list[str]:
    """Return the parts of a checkpoint that are not measured, as sentences."""
    groups = _quantization(config).get("config_groups") or {}
    inputs = [group.get("input_activations") for group in groups.values() if isinstance(group, dict)]
    if not any(inputs):
        return []
    bits = sorted({str(arguments.get("num_bits")) for arguments in inputs if arguments})
    return [f"activations are quantized to {' and '.join(bits)} bits as well; only its weights are measured"]


def _misread(method: str, quantization: Mapping[str, Any]) -> str:
    """Return why weights would be misread without an error; empty if they would not."""
    if method == "awq":
        names = (quantization.get(key) for key in ("version", "format", "checkpoint_format"))
        layout = str(next(filter(None, names), "gemm")).lower()
        return f"has AWQ weights in the layout `{layout}`; only `gemm` is read" if layout != "gemm" else ""
    if method != COMPRESSED_TENSORS:
        return ""
    sparsity = (quantization.get("sparsity_config") or {}).get("format", "dense")
    status = str(quantization.get("quantization_status"))
    if sparsity != "dense":
        return f"is stored in the sparse format `{sparsity}`, which compressed-tensors no longer reads"
    if (quantization.get("transform_config") or {}).get("config_groups"):
        return "rotates its activations (transform_config), which is not supported"
    if quantization.get("kv_cache_scheme"):
        return "quantizes keys and values (kv_cache_scheme), which is not supported"
    if status != "compressed":
        return f"says that its weights are not compressed (quantization_status `{status}`)"
    return ""


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    quantization = config.get("quantization_config")
    return quantization if isinstance(quantization, dict) else {}


def own_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the dtype that a config names, into which packed weights are unpacked."""
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype if dtype in ("bfloat16", "float16", "float32") else None

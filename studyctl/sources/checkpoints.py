"""Checkpoints, which are published compressed models: their identity, how weights are stored, and whether these can be read here."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from studyctl.contract.identity import PLAIN, ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.gguf.files import SUFFIX, identify_gguf
from studyctl.sources.model_files import identify_model
from studyctl.sources.packages import PREFIX
from studyctl.sources.storage import COMPRESSED_TENSORS, quantization
from studyctl.spec.models import Model

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
            f"a checkpoint is a folder, a GGUF file or a model of the hub: `{settings.id}` is none of them",
            hint="name the file in `[[models]]` to measure it as a model of its own",
        )
    if settings.id.endswith(SUFFIX) and not (base / Path(settings.id).expanduser()).is_dir():
        return identify_gguf(settings, base)
    model = Model(id=settings.id, revision=settings.revision)
    identity = identify_model(model, base, needs_tokenizer=False)
    check_storage(identity.storage, identity.config, settings.id)
    return identity if identity.key is None else replace(identity, key=digest(["checkpoint", identity.key]))


def is_readable(storage: str) -> bool:
    """Return whether a checkpoint in this format can be measured, if its packages are installed."""
    return storage in _PACKAGES


def check_storage(method: str, config: Mapping[str, Any], where: str) -> None:
    """Refuse weights that cannot be read here, or that would be read wrongly.

    Args:
        method: the format that they are stored in.
        config: ``config.json``.
        where: names the checkpoint in errors.

    Raises:
        StudyError: the format is not supported, needs a package that is not installed, or is not the config's.
    """
    if method != PLAIN and not quantization(config):
        raise StudyError(
            f"`{where}` has weights packed as {method}, and no `quantization_config` in config.json that says how",
            hint="take the config.json that was published with it; old ones have the settings in a file of their own",
        )
    if not is_readable(method):
        raise StudyError(
            f"`{where}` is stored in the format `{method}`, which cannot be read",
            hint="plain weights, compressed-tensors, gptq and awq can be read",
        )
    if reason := _misread(method, quantization(config)):
        raise StudyError(f"`{where}` {reason}")
    missing = [package for module, package in _PACKAGES[method].items() if find_spec(module) is None]
    if missing:
        raise StudyError(
            f"`{where}` is stored in the format `{method}`, which needs {' and '.join(missing)}",
            hint=f"pip install {' '.join(missing)}",
        )


def storage_caveats(config: Mapping[str, Any]) -> list[str]:
    """Return the parts of a checkpoint that are not measured, as sentences."""
    groups = quantization(config).get("config_groups") or {}
    inputs = [group.get("input_activations") for group in groups.values() if isinstance(group, dict)]
    if not any(inputs):
        return []
    bits = sorted({str(arguments.get("num_bits")) for arguments in inputs if arguments})
    return [f"activations are quantized to {' and '.join(bits)} bits as well; only its weights are measured"]


def _misread(method: str, settings: Mapping[str, Any]) -> str:
    """Return why weights would be misread without an error; empty if they would not."""
    if method == "awq":
        names = (settings.get(key) for key in ("version", "format", "checkpoint_format"))
        layout = str(next(filter(None, names), "gemm")).lower()
        return f"has AWQ weights in the layout `{layout}`; only `gemm` is read" if layout != "gemm" else ""
    if method != COMPRESSED_TENSORS:
        return ""
    sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
    status = str(settings.get("quantization_status"))
    if sparsity != "dense":
        return f"is stored in the sparse format `{sparsity}`, which compressed-tensors no longer reads"
    if (settings.get("transform_config") or {}).get("config_groups"):
        return "rotates its activations (transform_config), which is not supported"
    if settings.get("kv_cache_scheme"):
        return "quantizes keys and values (kv_cache_scheme), which is not supported"
    if status != "compressed":
        return f"says that its weights are not compressed (quantization_status `{status}`)"
    return ""


def own_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the dtype that a config names, into which packed weights are unpacked."""
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype if dtype in ("bfloat16", "float16", "float32") else None

"""A compressed model as a Hugging Face folder: written to a temporary folder, read back, compared, and only then moved.

Quantized linears are packed (:mod:`studyctl.compress.weights.packing`), all else is plain safetensors in the model's dtype. Before
the folder is moved, plain transformers loads it: every parameter and buffer must be equal bit for bit, and the logits must
agree.
"""

import gc
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from studyctl.compress.walk.architectures import block_matrices
from studyctl.compress.weights.compressed import Compressed
from studyctl.compress.weights.packing import (
    FORMAT,
    Packing,
    choose_packing,
    packed_tensors,
    quantization_config,
)
from studyctl.errors import StepError
from studyctl.files import atomic_folder
from studyctl.reporter import Reporter
from studyctl.sources.unpacking import stored_bits

SHARD_BYTES = 5_000_000_000
LOGIT_TOKENS = 16


@dataclass(frozen=True)
class Exported:
    """A folder that was read back and found equal to the model."""

    folder: Path
    format: str
    """``pack-quantized`` or ``safetensors``."""
    dtype: str
    """Of plain weights and of scales, such as ``bfloat16``; a packed folder is exact only in this dtype."""
    packing: Packing | None
    """How codes are stored; None: weights are plain."""
    why_plain: str
    """Why quantized weights are not packed; empty if they are packed or not quantized."""
    weight_files: int
    weight_bytes: int
    """Of these files."""
    block_bits_per_weight: float
    """Of the decoder blocks, from the bytes stored for their weights: codes, scales, zero points, shapes, and what is dense."""
    model_bits_per_weight: float
    """Of the whole model, from the sizes of the files."""
    logit_difference: float
    """Largest logit difference between the folder and the model in memory, as a fraction of the largest logit."""


def export_model(
    model: nn.Module,
    compressed: Compressed | None,
    target: Path,
    *,
    files: Iterable[Path],
    describe: Callable[[Exported], Mapping[str, str]],
    replace: bool,
    reporter: Reporter,
) -> Exported:
    """Write a folder from which plain transformers loads exactly these weights; it is complete and verified, or not made at all.

    At most one more copy of the model is in memory, if the caller keeps no reference to ``compressed``.

    Args:
        model: a causal model of transformers with the weights to export.
        compressed: its compressed weights, to be packed; None: the model's weights are written plain.
        target: the folder to make; missing or empty, unless ``replace``.
        files: files of the base model to copy: tokenizer, generation settings.
        describe: returns texts to write next to the weights, by file name, such as the model card.
        replace: replace a folder that exists.
        reporter: receives progress.

    Raises:
        StepError: there is no room, or the folder that was read back differs from the model.
        OSError: the folder cannot be written.
    """
    with atomic_folder(target, replace=replace) as folder:
        packing, why_plain = _choose_packing(model, compressed)
        reporter.progress(0, 2, "step", "writing")
        _write(model, compressed, packing, folder)
        del compressed  # frees its codes: room for the model that is read back
        copy_beside(files, folder)
        reporter.check_stop()
        reporter.progress(1, 2, "step", "reading it back")
        try:
            difference = verify(model, folder)
        except _NotLoadableError as error:
            if packing is None:
                raise
            # The code of some families cannot load packed linears: write them plain, and say why.
            packing, why_plain = None, f"plain transformers does not load this family packed ({error})"
            for path in folder.iterdir():
                path.unlink()
            _write(model, None, None, folder)
            copy_beside(files, folder)
            difference = verify(model, folder)
        reporter.check_stop()
        sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
        exported = Exported(
            folder=target,
            format=FORMAT if packing else "safetensors",
            dtype=str(_dtype(model)).removeprefix("torch."),
            packing=packing,
            why_plain=why_plain,
            weight_files=len(sizes),
            weight_bytes=sum(sizes),
            # Packed linears keep their names; in plain files that name blocks otherwise every weight has the dtype's bits.
            block_bits_per_weight=stored_bits(model, folder) or 8.0 * _dtype(model).itemsize,
            model_bits_per_weight=8 * sum(sizes) / sum(parameter.numel() for parameter in model.parameters()),
            logit_difference=difference,
        )
        for name, text in describe(exported).items():
            (folder / name).write_text(text, "utf-8")
        reporter.progress(2, 2, "step")
    return exported


def _choose_packing(model: nn.Module, compressed: Compressed | None) -> tuple[Packing | None, str]:
    packing, why_plain = choose_packing(compressed) if compressed is not None else (None, "")
    modules = dict(model.named_modules())
    others = (
        name
        for name in (compressed.linears if compressed else ())
        if not isinstance(modules.get(name), nn.Linear)
    )
    if packing is not None and (other := next(others, None)) is not None:
        return None, f"the format holds modules of the class Linear only, and {other} is none"
    return packing, why_plain


class _NotLoadableError(StepError):
    """Plain transformers does not load the folder."""


def _dtype(model: nn.Module) -> torch.dtype:
    return next(iter(block_matrices(model).values())).dtype


def _write(model: Any, compressed: Compressed | None, packing: Packing | None, folder: Path) -> None:
    """Write weights, ``config.json`` and ``generation_config.json``."""
    # Tensors of a GPU are copied off it; those that are tied stay so.
    tensors = model.state_dict(keep_vars=True)
    copies = {id(tensor): tensor.detach().cpu() for tensor in tensors.values()}
    state = {name: copies[id(tensor)] for name, tensor in tensors.items()}
    if compressed is not None and packing is not None:
        for name, linear in compressed.linears.items():
            del state[f"{name}.weight"]
            state |= {
                f"{name}.{part}": value.cpu() for part, value in packed_tensors(linear, packing).items()
            }
    needed = sum(tensor.nbytes for tensor in state.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StepError(
            f"the export takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free",
            hint="make room, or export to another disk",
        )
    transformers.utils.logging.disable_progress_bar()
    try:
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD_BYTES)
    except SafetensorError as error:  # safetensors does not raise OSError for a full disk
        raise StepError(f"the weights could not be written: {error}") from error
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if compressed is not None and packing is not None:
        config["quantization_config"] = quantization_config(packing, compressed.linears.keys(), model)
    config |= keys_of_older_loaders(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def keys_of_older_loaders(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config keys that transformers before 5 and its dependents read under other names.

    Without ``rope_theta`` they silently take 10,000, whatever the model has.
    """
    older: dict[str, Any] = {"torch_dtype": config.get("dtype")}
    rope = config.get("rope_parameters") or {}
    whole, local = rope.get("full_attention"), rope.get("sliding_attention")
    if whole and local:  # Gemma 3: one per kind of layer
        older |= {"rope_theta": whole["rope_theta"], "rope_local_base_freq": local["rope_theta"]}
    elif "rope_theta" in rope:
        older["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            older["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {key: value for key, value in older.items() if value is not None and key not in config}


def copy_beside(files: Iterable[Path], folder: Path) -> None:
    """Copy a tokenizer and other files into a folder, and name the tokenizer so that older transformers know it too."""
    for path in files:
        shutil.copyfile(path, folder / path.name)
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        tokenizer = json.loads(settings.read_text("utf-8"))
        if tokenizer.get("tokenizer_class") == "TokenizersBackend":
            # Only transformers 5 knows that name; all versions know this one.
            tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
            settings.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n", "utf-8")


@torch.no_grad()
def verify(model: Any, folder: Path) -> float:
    """Load a folder with plain transformers and compare it with the model.

    Returns:
        The largest logit difference, as a fraction of the largest logit.

    Raises:
        StepError: it does not load, or a weight, buffer or logit differs; the message names the first tensor.
    """
    reloaded = _reload(model, folder)
    ids = (torch.arange(LOGIT_TOKENS) * 7919 % model.config.get_text_config().vocab_size)[None]
    ids = ids.to(next(model.parameters()).device)
    logits = reloaded(input_ids=ids, use_cache=False).logits.float()  # this unpacks packed linears
    _compare_tensors(model, reloaded)
    del reloaded
    gc.collect()  # unpacked linears refer to themselves through `forward`: a cycle that would stay in memory for a while
    expected = model(input_ids=ids, use_cache=False).logits.float()
    difference = float((expected - logits).abs().max() / expected.abs().max().clamp(min=1e-30))
    # With equal weights and buffers, only settings can differ (soft caps, windows), or the order in which kernels sum.
    allowed = torch.finfo(_dtype(model)).eps ** 0.5
    if not difference <= allowed:
        raise StepError(
            f"the exported model gives other logits when it is read back (difference {difference:.2g} of the largest)",
            hint="the weights are equal, so config.json must lack a setting of this model: please report it",
        )
    return difference


def _reload(model: Any, folder: Path) -> Any:
    try:
        reloaded, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation=model.config._attn_implementation,  # another one rounds differently
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed in `info` and refused below
        )
    except ImportError as error:
        hint = "pip install 'studyctl[engine]'"
        raise StepError(f"the export cannot be read back: {error}", hint=hint) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _NotLoadableError(f"the export cannot be read back: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            names = ", ".join(sorted(map(str, info[problem]))[:4])
            raise _NotLoadableError(f"the export cannot be read back: {problem.replace('_', ' ')} {names}")
    return reloaded.requires_grad_(False).eval().to(next(model.parameters()).device)


def _compare_tensors(model: nn.Module, reloaded: nn.Module) -> None:
    """Compare the weights of the blocks first, then every other parameter and buffer."""
    buffers = dict(model.named_buffers())
    for name, expected in (block_matrices(model) | dict(model.named_parameters()) | buffers).items():
        owner, _, attribute = name.rpartition(".")
        other = getattr(reloaded.get_submodule(owner), attribute)
        if name in buffers:  # computed from the config in float32, and rounded in a model that was cast later
            other = other.to(expected.dtype)
        if other.dtype != expected.dtype or other.shape != expected.shape:
            mismatch = f"{other.dtype} {list(other.shape)} instead of {expected.dtype} {list(expected.shape)}"
        elif torch.equal(_bits(expected), _bits(other)):
            continue
        else:
            mismatch = f"off by up to {float((expected.float() - other.float()).abs().max()):.3g}"
        raise StepError(f"`{name}` is not the same when the export is read back: {mismatch}")
    is_tied, other_is_tied = _is_tied(model), _is_tied(reloaded)
    if is_tied != other_is_tied:
        raise StepError(f"tied embeddings: {is_tied} in memory, {other_is_tied} when the export is read back")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view in which −0 and 0 differ and NaN equals itself."""
    return tensor.data.contiguous().view(torch.uint8) if tensor.numel() and tensor.dim() else tensor.data


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight

"""Loading a checkpoint for a worker, with its weights unpacked."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from studyctl.compress.walk.architectures import block_matrices
from studyctl.contract.identity import GGUF, PLAIN, Bos, ModelIdentity
from studyctl.errors import StepError
from studyctl.reporter import Reporter
from studyctl.sources.checkpoints import own_dtype, storage_caveats
from studyctl.sources.configs import block_bytes
from studyctl.sources.gguf.files import gguf_path
from studyctl.sources.gguf.header import read_header
from studyctl.sources.gguf.loading import load_gguf
from studyctl.sources.models import (
    LoadedModel,
    load_tokenizer,
    make_ready,
    model_folder,
    planned_files,
    read_weights,
)
from studyctl.sources.safetensors_files import read_headers, weight_files
from studyctl.sources.storage import COMPRESSED_TENSORS
from studyctl.sources.tokens import tokenizer_key

SAMPLE = (
    'The year 2024 was 3.5% warmer; isn\'t it?\n\n\tdef f(x):  return x**2  # "quoted"\n'
    "Größe und Übermut. ¿Dónde está el niño? Где же ты теперь? 今天天气很好。 كيف حالك؟ Watu wote wamezaliwa huru. 🙂 ½ ﬁ"
)
"""Tokenizers that give the same tokens for this text almost certainly do so for every text."""


class ComparedModel(NamedTuple):
    """The model that a checkpoint is compared with, and how both are measured."""

    identity: ModelIdentity
    tokenizer: Any
    """Used where the checkpoint has none."""
    bos: Bos
    chat_template: bool


def load_checkpoint(
    identity: ModelIdentity, base: ComparedModel, *, dtype: str, device: str, reporter: Reporter
) -> LoadedModel:
    """Load a checkpoint with unpacked weights, so that it can be measured like any model.

    Packed weights are unpacked in the dtype that the checkpoint names, as its users do, and then converted to ``dtype``.

    Args:
        identity: what :func:`~studyctl.sources.checkpoints.identify_checkpoint` returned.
        base: the model that it is compared with.
        dtype: ``bfloat16``, ``float16`` or ``float32``.
        device: ``cpu``, ``cuda:0`` ...
        reporter: gets the progress of downloads, and warnings of what is not measured.

    Raises:
        StudyError: the files are missing, do not make this model, or its tokenizer gives other tokens than the base's.
    """
    if identity.storage == GGUF:
        return load_gguf(
            identity, base.identity, base.tokenizer, dtype=dtype, device=device, reporter=reporter
        )
    folder = model_folder(identity, allow_pickle=False, reporter=reporter)
    method = identity.storage
    unpacked_in = dtype if method == PLAIN else own_dtype(identity.config) or dtype
    tokenizer = base.tokenizer
    with planned_files(identity):
        if identity.tokenizer:
            tokenizer = load_tokenizer(folder)
        model = read_weights(folder, identity, unpacked_in, allow_pickle=False)
    if identity.tokenizer:
        check_same_tokens(tokenizer, base, identity.id)
    else:
        reporter.warning(f"{identity.id} has no tokenizer: that of {base.identity.id} is used")
    for caveat in storage_caveats(identity.config):
        reporter.warning(f"{identity.id}: {caveat}")
    if method != PLAIN:
        unpack(model, method)
        for parameter in model.parameters():
            # Not `model.to(dtype)`, which would round the buffers of rotary embeddings as well.
            parameter.data = parameter.data.to(getattr(torch, dtype))
    make_ready(model, identity.id, device)
    return LoadedModel(model, tokenizer, identity, folder, dtype, device, allow_pickle=False)


def check_same_tokens(tokenizer: Any, base: ComparedModel, name: str) -> None:
    """Refuse a checkpoint whose tokenizer splits text differently than its base's: no figure could be compared.

    Raises:
        StepError: the tokenizers differ; the message says how.
    """
    same = tokenizer_key(tokenizer) == tokenizer_key(base.tokenizer)
    if not same and any(
        tokenizer(SAMPLE, add_special_tokens=special).input_ids
        != base.tokenizer(SAMPLE, add_special_tokens=special).input_ids
        for special in (False, True)
    ):
        what = "gives other token ids"
    elif base.bos == "prepend" and tokenizer.bos_token_id != base.tokenizer.bos_token_id:
        what = "has another begin-of-sequence token"
    elif base.chat_template and tokenizer.chat_template != base.tokenizer.chat_template:
        what = "has another chat template"
    else:
        return
    raise StepError(
        f"the tokenizer of {name} {what} than that of {base.identity.id}, so that the two cannot be compared",
        hint="is it made from that model, at this revision? A folder without tokenizer is measured with the model's",
    )


@torch.no_grad()
def unpack(model: Any, method: str) -> None:
    """Turn the packed linears of a model, as transformers loads them, into plain ones with unpacked weights, in place."""
    if method == COMPRESSED_TENSORS:
        _decompress(model)
    else:
        _replace_packed(model)
    # This is a plain model now; transformers would treat it as a quantized one.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config


def _decompress(model: Any) -> None:
    """Unpack each module by its own scheme.

    transformers' ``dequantize=True`` is not used: it applies one scheme to all linears, which silently breaks a model with
    two of them (4 and 8 bits).
    """
    model.hf_quantizer.compressor.decompress_model(model)
    for module in model.modules():
        if not hasattr(module, "quantization_scheme"):
            continue
        vars(module).pop("forward", None)  # it rounds activations in every pass
        parameters = {name for name, _ in module.named_parameters(recurse=False)}
        # Besides the scheme: scales, zero points and shapes of the weight, which is unpacked now.
        for name in {"quantization_scheme", "quantization_status"} | parameters - {"weight", "bias"}:
            delattr(module, name)


def _replace_packed(model: Any) -> None:
    """Replace every packed linear of gptqmodel by a plain one."""
    for name, module in list(model.named_modules()):
        if not hasattr(module, "qweight"):
            continue
        if hasattr(module, "dequantize_weight"):
            transposed = module.dequantize_weight()
        else:
            # gptqmodel is optional
            packing = import_module("gptqmodel.quantization.awq.utils.packing_utils")
            transposed = packing.dequantize_gemm(
                module.qweight, module.qzeros, module.scales, module.bits, module.group_size
            )
        weight = transposed.T.contiguous()
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.detach().to(weight.dtype), requires_grad=False)
        model.set_submodule(name, plain)


def checkpoint_bits(loaded: LoadedModel) -> float | None:
    """Return the bits per weight of a checkpoint's decoder blocks in its files; None if their names tell of no blocks."""
    if loaded.identity.storage == GGUF:
        return read_header(gguf_path(loaded.identity)).block_bits_per_weight
    return stored_bits(loaded.model, loaded.folder)


def stored_bits(model: nn.Module, folder: Path) -> float | None:
    """Return the bits per weight of a model's decoder blocks in a folder's files; None if their names tell of no blocks.

    All that belongs to their linears counts, except biases: codes, scales, zero points, shapes; and what is stored dense.
    """
    stored = block_bytes(read_headers(weight_files(folder, allow_pickle=False)))
    if not stored:
        return None
    return 8 * stored / sum(parameter.numel() for parameter in block_matrices(model).values())

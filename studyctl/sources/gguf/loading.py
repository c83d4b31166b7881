"""Loading a GGUF file as a checkpoint: its weights in a model of the config that they were made from."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter, quants

from studyctl.contract.identity import ModelIdentity
from studyctl.errors import StepError
from studyctl.reporter import Reporter
from studyctl.sources.gguf import families
from studyctl.sources.gguf.families import FAMILIES, Family
from studyctl.sources.gguf.files import differences, gguf_path, tokens_differ, with_facts
from studyctl.sources.gguf.header import Header, StoredTensor, read_header
from studyctl.sources.gguf.tensors import from_file, names_in_file
from studyctl.sources.models import LoadedModel, make_ready, model_folder, planned_files

_ROTATIONS = "rope_"
"""Begins the names of tensors that are computed from the config."""
_FACTORS = "rope_freqs.weight"
"""What frequencies are divided by."""
_FREE = (
    "general.architecture",
    *("context_length", "vocab_size", "rope.scaling.original_context_length"),
)
"""Keys in which a file may differ from its model, as they decide nothing of what is computed."""


def load_gguf(
    identity: ModelIdentity,
    base: ModelIdentity,
    tokenizer: Any,
    *,
    dtype: str,
    device: str,
    reporter: Reporter,
) -> LoadedModel:
    """Load a GGUF file's weights, dequantized and rounded once to ``dtype``, into a model of its base's config.

    Args:
        identity: what :func:`~studyctl.sources.gguf.files.identify_gguf` returned.
        base: the model that it is compared with, which gives config and tokenizer.
        tokenizer: of that model.
        dtype: ``bfloat16``, ``float16`` or ``float32``.
        device: ``cpu``, ``cuda:0`` ...
        reporter: gets the progress of downloads.

    Returns:
        The model, with the folder of its base, where its config and tokenizer are.

    Raises:
        StudyError: files are missing or changed, or the file is not of this model; names what differs.
    """
    with planned_files(base):
        base_folder = model_folder(base, allow_pickle=False, reporter=reporter)
        config = transformers.AutoConfig.from_pretrained(
            base_folder, local_files_only=True, trust_remote_code=False
        )
    folder = model_folder(identity, allow_pickle=False, reporter=reporter)
    with planned_files(identity):
        identity = with_facts(identity, folder)
        header = read_header(gguf_path(identity))
        for difference in differences(identity, base):
            raise StepError(difference)
        vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
        if difference := tokens_differ(header, vocabulary, base.id):
            raise StepError(f"`{identity.id}` {difference}")
        model = _read(identity, header, config, getattr(torch, dtype), base.id)
    make_ready(model, identity.id, device)
    return LoadedModel(model, tokenizer, identity, base_folder, dtype, device, allow_pickle=False)


def _read(
    identity: ModelIdentity, header: Header, config: Any, dtype: torch.dtype, base: str
) -> torch.nn.Module:
    """Return a model of this config with a file's weights.

    Raises:
        StepError: the file has other keys or tensors than a model of this config, or blocks that cannot be read.
    """
    family, name = FAMILIES[config.model_type], identity.id
    for difference in _keys_differ(header, family, config):
        raise StepError(f"`{name}` {difference} of `{base}`: the two compute different things")
    with torch.device("meta"):
        empty: Any = transformers.AutoModelForCausalLM.from_config(config)
    sources = names_in_file(empty, family)
    _check_names(header.tensors, sources, name)
    shapes = {source: tuple(tensor.shape) for source, tensor in empty.state_dict().items()}
    data, state = np.memmap(gguf_path(identity), np.uint8, "r"), {}
    for target, source in sources.items():
        if (shape := header.tensors[target].shape) != shapes[source]:
            raise StepError(
                f"`{target}` of `{name}` has the shape {list(shape)}, not {list(shapes[source])} as in `{base}`"
            )
        values = _dequantized(data, header.tensors[target], f"`{target}` of `{name}`")
        state[source] = from_file(family, config, source, values).to(dtype)
    factors, stored = families.frequency_factors(config), header.tensors.get(_FACTORS)
    theirs = _dequantized(data, stored, f"`{_FACTORS}` of `{name}`") if stored is not None else factors
    if factors is not None and theirs is not None and not torch.allclose(theirs, factors, rtol=1e-4):
        raise StepError(f"`{name}` has other {_FACTORS} than `{base}`: the two compute different things")
    transformers.utils.logging.disable_progress_bar()
    # sdpa silently omits soft caps.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return cast(
        "torch.nn.Module",
        type(empty).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            attn_implementation="eager" if capped else None,
            local_files_only=True,
        ),
    )


def _dequantized(data: np.ndarray[Any, Any], tensor: StoredTensor, what: str) -> torch.Tensor:
    """Return the values of a tensor in float32.

    Raises:
        StepError: the installed ``gguf`` does not know its blocks.
    """
    raw = data[tensor.begin : tensor.begin + tensor.bytes].reshape(*tensor.shape[:-1], -1)
    try:
        values = quants.dequantize(raw, GGMLQuantizationType(tensor.kind))
    except (NotImplementedError, ValueError) as error:
        raise StepError(f"{what} cannot be read: {error}") from error
    return torch.from_numpy(np.require(values, requirements=("W", "A")))  # not the mapped file


def _check_names(stored: Mapping[str, Any], sources: Mapping[str, str], name: str) -> None:
    """Refuse a file that has other tensors than a model; those of rotations do not count."""
    others = {target for target in stored.keys() - sources.keys() if not target.startswith(_ROTATIONS)}
    for what, targets in {
        "lacks": sources.keys() - stored.keys(),
        "has, besides the model's,": others,
    }.items():
        if targets:
            more = f" and {len(targets) - 4} more" if len(targets) > 4 else ""
            raise StepError(f"`{name}` {what} {', '.join(sorted(targets)[:4])}{more}")


def _keys_differ(header: Header, family: Family, config: Any) -> Iterator[str]:
    """Yield the keys of a file that are not what a file of this config would have, as parts of sentences."""
    ours = GGUFWriter(None, family.name)
    families.add_keys(ours, family, config)
    for key, value in ours.kv_data[0].items():
        theirs, expected = header.fields.get(key), value.value
        if theirs is None or key.removeprefix(f"{family.name}.") in _FREE:
            continue
        if isinstance(expected, float) and isinstance(theirs, float):
            if not math.isclose(theirs, expected, rel_tol=1e-5):
                yield f"has {key} = {theirs:g}, not the {expected:g}"
        elif theirs != expected:
            yield f"has {key} = {theirs}, not the {expected}"

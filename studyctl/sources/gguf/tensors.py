"""A model's tensors as a GGUF file has them: their names, the order of rows, the weights of norms; and the way back."""

from typing import Any

import gguf
import torch

from studyctl.errors import StepError
from studyctl.sources.gguf.families import Family


def names_in_file(model: Any, family: Family) -> dict[str, str]:
    """Return the names of the tensors that a file stores -> those in the model. A tied head is the embedding, and is not stored again.

    Raises:
        StepError: one has no place in a file.
    """
    names = gguf.get_tensor_name_map(family.arch, model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    return {
        _name(names, source): source
        for source in model.state_dict()
        if not (tied and source == "lm_head.weight")
    }


def _name(names: gguf.TensorNameMap, source: str) -> str:
    base, _, part = source.rpartition(".")
    name = names.get_name(base)
    if name is None:
        raise StepError(
            f"`{source}` has no place in a GGUF file of this family", hint="export the folder instead"
        )
    return f"{name}.{part}"


def permuted(
    family: Family, config: Any, source: str, tensor: torch.Tensor, *, back: bool = False
) -> torch.Tensor:
    """Return a tensor with its rows in llama.cpp's order, or from there back in that of transformers.

    Args:
        family: of the model.
        config: of the model.
        source: the tensor's name in the model.
        tensor: ``[out, in]`` or ``[out]``.
        back: whether it is in llama.cpp's order.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
        source.split(".")[-2]
    )
    if heads is None or not family.permuted:
        return tensor
    pairs = len(tensor) // heads // 2
    split = tensor.reshape(heads, *((pairs, 2) if back else (2, pairs)), *tensor.shape[1:])
    return split.swapaxes(1, 2).reshape(tensor.shape)


def in_file(family: Family, config: Any, source: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor of a model as a file has it."""
    values = permuted(family, config, source, tensor.detach().cpu())
    return values.float() + family.norm_offset if _is_offset(family, source) else values


def from_file(family: Family, config: Any, source: str, values: torch.Tensor) -> torch.Tensor:
    """Return the values of a file's tensor, in float32, as the model has them: what :func:`in_file` takes."""
    if _is_offset(family, source):
        values = values - family.norm_offset
    return permuted(family, config, source, values, back=True)


def _is_offset(family: Family, source: str) -> bool:
    return bool(family.norm_offset) and "norm" in source

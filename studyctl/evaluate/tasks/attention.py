"""Attention among the tokens of a tree, for any model that calls attention through the interface of ``transformers``.

A model's own layers, norms and position embeddings run on one row of tokens with positions that begin anew in each tree;
only the function between query, key, value and output is replaced. It is told by the model what its layer does: scale,
sliding window (counted in positions, as the model would count them in a prompt alone), soft cap.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from studyctl.evaluate.tasks.packing import Chunk, Group

NAME = "studyctl_trees"
UNKNOWN = ("s_aux", "sinks", "position_bias", "block_indices", "indices")
"""What a layer may ask of attention and this function does not do: sinks, biases by distance, chosen keys."""


class UnknownAttentionError(Exception):
    """A layer asks for something that is not known here."""


class Layout:
    """Which tokens of a row see each other, on the device of the model."""

    def __init__(self, chunk: Chunk, device: torch.device, dtype: torch.dtype) -> None:
        self.groups = chunk.groups
        self._ends = torch.from_numpy(chunk.ends).to(device)
        self._positions = torch.from_numpy(chunk.positions).to(device)
        self._dtype = dtype
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def mask(self, group: Group, window: int | None) -> Tensor | None:
        """Return what is added to the scores ``[trees, 1, width, width]`` of a group; None: every token sees all before it.

        Args:
            group: Of this row.
            window: Positions back that are seen, the token's own included; None: all.
        """
        if window is not None and window >= group.width:
            window = None
        key = (group.start, window)
        if key not in self._masks:
            self._masks[key] = None if group.is_chain and window is None else self._build(group, window)
        return self._masks[key]

    def _build(self, group: Group, window: int | None) -> Tensor:
        part = slice(group.start, group.start + group.trees * group.width)
        ends = self._ends[part].view(group.trees, 1, group.width)
        index = torch.arange(group.width, device=ends.device)
        seen = (index[:, None] >= index) & (index[:, None] < ends)
        if window is not None:
            positions = self._positions[part].view(group.trees, group.width)
            seen &= positions[:, :, None] - positions[:, None, :] < window
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=ends.device)
        return mask.masked_fill_(~seen, -torch.inf)[:, None]


_layout: ContextVar[Layout] = ContextVar("layout")


@contextmanager
def tree_attention(model: Any, layout: Layout) -> Iterator[None]:
    """Have a model's layers call :func:`attend` in the forward passes inside, on a row that is laid out like this.

    Raises:
        UnknownAttentionError: the model does not call attention through the interface of ``transformers``.
    """
    before = model.config._attn_implementation
    token = _layout.set(layout)
    model.set_attn_implementation(NAME)
    try:
        if model.config.get_text_config()._attn_implementation != NAME:
            raise UnknownAttentionError("its attention cannot be replaced")
        yield
    finally:
        model.set_attn_implementation(before)
        _layout.reset(token)


def attend(  # noqa: PLR0913 - as transformers calls it
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within each tree of the row.

    Args:
        module: The layer.
        query: ``[1, heads, tokens, features]``
        key: ``[1, key heads, tokens, features]``
        value: ``[1, key heads, tokens, value features]``
        attention_mask: None: what is seen is known from the layout.
        scaling: Of the scores; None: ``features ** -0.5``.
        dropout: 0.
        sliding_window: Positions back that are seen; None: all.
        softcap: Scores become ``softcap · tanh(scores / softcap)``; None: they do not.
        options: What else the layer says.

    Returns:
        ``[1, tokens, heads, value features]``, and no weights.

    Raises:
        UnknownAttentionError: the layer asks for something else than this.
    """
    unknown = [name for name in UNKNOWN if options.get(name) is not None]
    if options.get("is_causal") is False:
        unknown.append("is_causal")
    if unknown or attention_mask is not None or dropout or key.shape[2] != query.shape[2]:
        asked = ", ".join(unknown) or "a mask, dropout or a cache"
        raise UnknownAttentionError(f"its layers ask attention for {asked}")
    layout = _layout.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    for group in layout.groups:
        mask = layout.mask(group, sliding_window)
        part = slice(group.start, group.start + group.trees * group.width)
        q, k, v = (tensor[0, :, part] for tensor in (query, key, value))
        found = _attend_group(q, k, v, mask, group, scale, softcap)
        output[part].view(group.trees, group.width, *output.shape[1:]).copy_(found.transpose(1, 2))
    return output[None], None


def _attend_group(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    group: Group,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Return ``[trees, heads, width, value features]`` of tensors ``[heads, trees · width, features]``."""
    query, key, value = (
        tensor.reshape(len(tensor), group.trees, group.width, -1).transpose(0, 1)
        for tensor in (query, key, value)
    )
    if softcap is not None:
        return _attend_capped(query, key, value, mask, scale, softcap)
    grouped = mask is None or not query.is_cuda
    if not grouped:  # on a GPU only the slowest kernel takes a mask and groups at once
        key, value = _for_each_head(key, query), _for_each_head(value, query)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )


def _for_each_head(tensor: Tensor, query: Tensor) -> Tensor:
    """Repeat keys or values for the heads of the query that share them."""
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)


def _attend_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """The same with capped scores, which no fused kernel computes; softmax in fp32, as the models do."""
    key, value = _for_each_head(key, query), _for_each_head(value, query)
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / softcap) * softcap
    if mask is None:
        width = scores.shape[-1]
        future = torch.ones(width, width, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    else:
        scores = scores + mask
    return functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


AttentionInterface.register(NAME, attend)

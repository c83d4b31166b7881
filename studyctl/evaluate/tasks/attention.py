"""Attention among the tokens of a tree, for any model that calls attention through the interface of ``transformers``.

A model's own layers, norms and position embeddings run on one row of tokens with positions that start at 0 in each tree;
only the function between query, key, value and output is replaced. The model passes it the options of each layer: scale,
sliding window (counted in positions, as for a single prompt), soft cap.
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
UNSUPPORTED = ("s_aux", "sinks", "position_bias", "block_indices", "indices")
"""Options of layers that :func:`attend` does not implement: sinks, position biases, selected keys."""


class UnsupportedAttentionError(Exception):
    """A layer asks for something that is not implemented here."""


class Layout:
    """Which tokens of a row attend to each other, on the device of the model."""

    def __init__(self, chunk: Chunk, device: torch.device, dtype: torch.dtype) -> None:
        self.groups = chunk.groups
        self._ends = torch.from_numpy(chunk.ends).to(device)
        self._positions = torch.from_numpy(chunk.positions).to(device)
        self._dtype = dtype
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def mask(self, group: Group, window: int | None) -> Tensor | None:
        """Return the additive mask ``[trees, 1, width, width]`` of a group; None: each token attends to all before it.

        Args:
            group: of this row.
            window: number of positions that a token attends to, its own included; None: all.
        """
        if window is not None and window >= group.width:
            window = None
        if group.is_chain and window is None:
            return None
        key = (group.start, window)
        if key in self._masks:
            return self._masks[key]
        part = slice(group.start, group.start + group.trees * group.width)
        ends = self._ends[part].view(group.trees, 1, group.width)
        index = torch.arange(group.width, device=ends.device)
        visible = (index[:, None] >= index) & (index[:, None] < ends)
        if window is not None:
            positions = self._positions[part].view(group.trees, group.width)
            visible &= positions[:, :, None] - positions[:, None, :] < window
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=ends.device)
        self._masks[key] = mask.masked_fill_(~visible, -torch.inf)[:, None]
        return self._masks[key]


_layout: ContextVar[Layout] = ContextVar("layout")


@contextmanager
def tree_attention(model: Any, layout: Layout) -> Iterator[None]:
    """Make a model's layers call :func:`attend` with this layout in the forward passes inside the context.

    Raises:
        UnsupportedAttentionError: the model does not call attention through the interface of ``transformers``.
    """
    before = model.config._attn_implementation
    token = _layout.set(layout)
    model.set_attn_implementation(NAME)
    try:
        if model.config.get_text_config()._attn_implementation != NAME:
            raise UnsupportedAttentionError("its attention cannot be replaced")
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
        module: the layer.
        query: ``[1, heads, tokens, features]``
        key: ``[1, key heads, tokens, features]``
        value: ``[1, key heads, tokens, value features]``
        attention_mask: None, since the layout decides.
        scaling: factor of the scores; None: ``features ** -0.5``.
        dropout: 0.
        sliding_window: positions that a token attends to; None: all.
        softcap: scores become ``softcap · tanh(scores / softcap)``; None: no cap.
        options: other options of the layer.

    Returns:
        ``[1, tokens, heads, value features]``, and None in place of attention weights.

    Raises:
        UnsupportedAttentionError: the layer asks for something that is not implemented.
    """
    unsupported = [name for name in UNSUPPORTED if options.get(name) is not None]
    if options.get("is_causal") is False:
        unsupported.append("is_causal")
    if unsupported or attention_mask is not None or dropout or key.shape[2] != query.shape[2]:
        options_text = ", ".join(unsupported) or "a mask, dropout or a cache"
        raise UnsupportedAttentionError(f"its layers ask attention for {options_text}")
    layout = _layout.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    for group in layout.groups:
        mask = layout.mask(group, sliding_window)
        part = slice(group.start, group.start + group.trees * group.width)
        q, k, v = (  # [trees, heads, width, features]
            tensor[0, :, part].reshape(tensor.shape[1], group.trees, group.width, -1).transpose(0, 1)
            for tensor in (query, key, value)
        )
        # On a GPU only the slowest kernel takes both a mask and shared keys.
        shared = softcap is None and (mask is None or not query.is_cuda)
        if not shared:
            k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
        if softcap is not None:
            attended = _attend_capped(q, k, v, mask, scale, softcap)
        else:
            attended = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=shared
            )
        output[part].view(group.trees, group.width, *output.shape[1:]).copy_(attended.transpose(1, 2))
    return output[None], None


def _attend_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """Attend with capped scores, which no fused kernel computes; softmax in fp32, as the models do."""
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / softcap) * softcap
    if mask is None:
        mask = scores.new_full(scores.shape[-2:], -torch.inf).triu_(1)
    return functional.softmax(scores + mask, dim=-1, dtype=torch.float32).to(query.dtype) @ value


AttentionInterface.register(NAME, attend)

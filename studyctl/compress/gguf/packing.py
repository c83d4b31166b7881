"""From levels and scales to the bytes of llama.cpp's blocks.

The layouts are those of ``ggml-common.h`` and of ``dequantize_row_*`` in ``ggml-quants.c``. Numbers within a super-block are spread over
bytes in the order in which vector instructions of readers unpack them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studyctl.compress.gguf.levels import CODEBOOK, LEVELS
from studyctl.contract.gguf import BlockType

Bytes = NDArray[Any]
"""uint8; numpy's types lose that in shifts."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rounded:
    """A matrix ``[out, in]`` on the levels of a type; its weights are ``scales · levels − minima``."""

    levels: NDArray[np.int16]
    """``[out, in]``."""
    scales: Floats
    """``[out, blocks]``: fp16 numbers, or in super-blocks multiples of ``shared_scales``."""
    minima: Floats
    """``[out, blocks]``; 0 for a type without."""
    shared_scales: Floats | None = None
    """``[out, super-blocks]``, fp16 numbers; None: no super-blocks."""
    shared_minima: Floats | None = None


def pack(rounded: Rounded, kind: BlockType) -> Bytes:
    """Return the bytes ``[out, bytes]`` of a matrix."""
    parts = _plain_block(rounded, kind) if rounded.shared_scales is None else _super_block(rounded, kind)
    return np.ascontiguousarray(np.concatenate(parts, axis=1).reshape(len(rounded.levels), -1))


def _plain_block(rounded: Rounded, kind: BlockType) -> list[Bytes]:
    """Return the parts of every block ``[out · blocks, bytes]``."""
    form = LEVELS[kind]
    levels = rounded.levels.reshape(-1, form.inputs)
    parts = [_halves(rounded.scales)]
    if form.has_minimum:
        parts.append(_halves(-rounded.minima))
    if kind is BlockType.Q8_0:
        return [*parts, levels.astype(np.int8).view(np.uint8)]
    codes = _codes(levels, kind)
    if form.high - form.low == 31:
        parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
    return [*parts, _nibbles(codes & 15, 16)]


def _super_block(rounded: Rounded, kind: BlockType) -> list[Bytes]:
    """Return the parts of every super-block ``[out · super-blocks, bytes]``."""
    form = LEVELS[kind]
    assert rounded.shared_scales is not None
    codes = _codes(rounded.levels.reshape(-1, form.span), kind)
    shared = _halves(rounded.shared_scales)
    scales = _multiples(rounded.scales, rounded.shared_scales)
    match kind:
        case BlockType.Q6_K:
            return [
                _nibbles(codes & 15, 64),
                _quarters(codes >> 4),
                scales.astype(np.int8).view(np.uint8),
                shared,
            ]
        case BlockType.Q3_K:
            return [_bit_planes(codes >> 2), _quarters(codes & 3), _q3_scales(scales), shared]
        case BlockType.IQ4_XS:
            return [shared, *_iq4_scales(scales), _nibbles(codes, 16)]
    assert rounded.shared_minima is not None
    minima = _multiples(rounded.minima, rounded.shared_minima)
    both = [shared, _halves(rounded.shared_minima)]
    if kind is BlockType.Q2_K:
        return [(scales | (minima << 4)).astype(np.uint8), _quarters(codes), *both]
    head = [*both, _k_scales(scales.astype(np.uint8), minima.astype(np.uint8))]
    if kind is BlockType.Q5_K:
        head.append(_bit_planes(codes >> 4))
    return [*head, _nibbles(codes & 15, 32)]


def _codes(levels: NDArray[np.int16], kind: BlockType) -> Bytes:
    """Return levels counted from 0."""
    form = LEVELS[kind]
    codes: NDArray[Any] = np.searchsorted(CODEBOOK, levels) if form.has_codebook else levels - form.low
    return codes.astype(np.uint8)


def _halves(numbers: Floats) -> Bytes:
    """Return fp16 numbers as bytes ``[numbers, 2]``."""
    return np.ascontiguousarray(numbers.astype(np.float16)).view(np.uint8).reshape(-1, 2)


def _multiples(numbers: Floats, shared: Floats) -> NDArray[np.int32]:
    """Return by what integers shared numbers are multiplied, ``[super-blocks, blocks]``."""
    unit = shared.reshape(-1, 1)
    safe = np.where(unit == 0, 1, unit)
    return np.rint(np.where(unit == 0, 0, numbers.reshape(len(unit), -1) / safe)).astype(np.int32)


def _nibbles(codes: Bytes, half: int) -> Bytes:
    """Return codes of 4 bits two a byte: of every ``2 · half``, the first half lies in the lower bits."""
    parts = codes.reshape(len(codes), -1, 2, half)
    packed: Bytes = parts[:, :, 0] | (parts[:, :, 1] << 4)
    return packed.reshape(len(codes), -1)


def _quarters(codes: Bytes) -> Bytes:
    """Return codes of 2 bits four a byte: of every 128, each 32 lie two bits higher than those before."""
    parts = codes.reshape(len(codes), -1, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(parts << shifts, axis=2)
    return packed.reshape(len(codes), -1)


def _bit_planes(bits: Bytes) -> Bytes:
    """Return single bits ``[…, 256]`` in 32 bytes: byte i has those of the inputs i, i + 32, ..."""
    return np.packbits(bits.reshape(len(bits), 8, 32), axis=1, bitorder="little").reshape(len(bits), 32)


def _k_scales(scales: Bytes, minima: Bytes) -> Bytes:
    """Return eight scales and eight minima of 6 bits in 12 bytes; the high bits of the last four lie above the first four."""
    low = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    first = [part[:, :4] | ((part[:, 4:] >> 4) << 6) for part in (scales, minima)]
    return np.concatenate([*first, low], axis=1)


def _q3_scales(scales: NDArray[np.int32]) -> Bytes:
    """Return sixteen signed scales of 6 bits in 12 bytes: eight of low halves, four of high ones."""
    codes = (scales + 32).astype(np.uint8)
    low = (codes[:, :8] & 15) | ((codes[:, 8:] & 15) << 4)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce((codes >> 4).reshape(-1, 4, 4) << shifts, axis=1)
    return np.concatenate([low, high], axis=1)


def _iq4_scales(scales: NDArray[np.int32]) -> list[Bytes]:
    """Return eight signed scales of 6 bits: two bytes of high halves, four of low ones."""
    codes = (scales + 32).astype(np.uint16)
    shifts = np.arange(0, 16, 2, dtype=np.uint16)
    high = np.bitwise_or.reduce((codes >> 4) << shifts, axis=1)
    low = (codes[:, 0::2] & 15) | ((codes[:, 1::2] & 15) << 4)
    return [high[:, None].view(np.uint8), low.astype(np.uint8)]

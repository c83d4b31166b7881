"""llama.cpp's own library, by ctypes: what it makes of a text, of token ids, and of a matrix that it quantizes.

It is found in the folder that ``STUDYCTL_LLAMA`` names (with ``libllama*.so`` and ggml's libraries), or in the package ``llama_cpp``.
Its parameter structs change between releases and are not described by the library. They are taken as bytes, with the defaults that the
library itself gives; the few fields that are set are found by their known defaults, and a library where these are elsewhere is refused.
"""

import ctypes
import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studyctl.contract.gguf import BlockType
from studyctl.errors import StepError

FOLDER = "STUDYCTL_LLAMA"
INSTALL = f"`pip install llama-cpp-python`, or let {FOLDER} name the folder with libllama.so of a release of llama.cpp"
_CONTEXT, _BATCH, _SMALL_BATCH, _SEQUENCES = 512, 2048, 512, 1
"""Defaults of the first fields of ``llama_context_params``: n_ctx, n_batch, n_ubatch, n_seq_max."""
_THREADS = 4
"""Default of both fields that follow."""


_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
"""Called with every line of llama.cpp's log; kept here, as the library keeps no reference."""


class _Parameters(ctypes.Structure):
    """A parameter struct of any release: it is passed by value, so it must not be shorter than the library's."""

    _fields_ = [("bytes", ctypes.c_uint8 * 512)]


class _Batch(ctypes.Structure):
    """``llama_batch``."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def find_llama() -> Path | None:
    """Return the folder with llama.cpp's library; None if there is none.

    Raises:
        StepError: ``STUDYCTL_LLAMA`` names a folder without one.
    """
    if named := os.environ.get(FOLDER):
        if not list(Path(named).glob("libllama*.so*")):
            raise StepError(f"{FOLDER} names {named}, which has no libllama*.so", hint="or unset it")
        return Path(named)
    spec = find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec is not None and spec.origin is not None else None
    return folder if folder is not None and folder.is_dir() else None


def _file(folder: Path, pattern: str) -> Path:
    # `libllama.v0.4.0.so`, `libllama.so`; not `libllama-common.so`.
    return min(folder.glob(pattern), key=lambda path: (len(path.name.split("-")), path.name))


_BASE = "libggml-base*.so*"


def build() -> str | None:
    """Return the hash of the library that quantizes, 12 hex digits; None if it is not here."""
    folder = find_llama()
    return None if folder is None else _hash_of(_file(folder, _BASE))


def kernels() -> str | None:
    """Return the hash of all libraries that compute, 12 hex digits; None if they are not here."""
    folder = find_llama()
    return None if folder is None else _hash_of(*sorted(folder.glob("lib*.so*")))


@cache
def _hash_of(*files: Path) -> str:
    parts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return (parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest())[:12]


def quantize_rows(
    kind: BlockType, weights: NDArray[np.float32], squares: NDArray[np.float32] | None
) -> NDArray[np.uint8]:
    """Return a matrix in blocks, as ``llama-quantize`` makes them.

    Args:
        kind: of the blocks.
        weights: ``[out, in]``.
        squares: mean squares of the inputs ``[in]``, up to a factor: the importance matrix; None: without one.

    Raises:
        StepError: the library is not here.
    """
    if (folder := find_llama()) is None:
        raise StepError("llama.cpp's library is not here", hint=INSTALL)
    quantize = _quantizer(folder)
    rows, inputs = weights.shape
    blocks = np.empty((rows, kind.row_bytes(inputs)), np.uint8)
    importance = None if squares is None else np.ascontiguousarray(squares, np.float32).ctypes

    def part(span: tuple[int, int]) -> None:
        first, last = span
        quantize(
            kind.number,
            weights[first:last].ctypes,
            blocks[first:last].ctypes,
            0,
            last - first,
            inputs,
            importance,
        )

    threads = min(os.cpu_count() or 1, rows)
    ends = [rows * place // threads for place in range(threads + 1)]
    quantize(
        kind.number, weights[:0].ctypes, blocks[:0].ctypes, 0, 0, inputs, importance
    )  # makes its tables once
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, pairwise(ends)))
    return blocks


@cache
def _quantizer(folder: Path) -> Any:
    quantize = ctypes.CDLL(str(_file(folder, _BASE))).ggml_quantize_chunk
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    quantize.restype, quantize.argtypes = (
        ctypes.c_size_t,
        [ctypes.c_int, pointer, pointer, size, size, size, pointer],
    )
    return quantize


@cache
def _library(folder: Path) -> Any:
    """Load the library once."""
    ctypes.CDLL(str(_file(folder, _BASE)), mode=ctypes.RTLD_GLOBAL)
    ggml = ctypes.CDLL(str(_file(folder, "libggml.*so*")), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(_file(folder, "libllama.*so*")), mode=ctypes.RTLD_GLOBAL)
    library.llama_log_set(_QUIET, None)
    if hasattr(ggml, "ggml_backend_load_all_from_path"):
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
    library.llama_backend_init()
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "llama_model_default_params": (_Parameters, []),
        "llama_context_default_params": (_Parameters, []),
        "llama_model_load_from_file": (pointer, [ctypes.c_char_p, _Parameters]),
        "llama_init_from_model": (pointer, [pointer, _Parameters]),
        "llama_free": (None, [pointer]),
        "llama_model_free": (None, [pointer]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_vocab_n_tokens": (number, [pointer]),
        "llama_tokenize": (
            number,
            [pointer, ctypes.c_char_p, number, ctypes.POINTER(number), number, ctypes.c_bool, ctypes.c_bool],
        ),
        "llama_batch_init": (_Batch, [number, number, number]),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (number, [pointer, _Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class LlamaModel:
    """A GGUF file that llama.cpp has loaded, to be computed on the CPU."""

    def __init__(self, folder: Path, file: Path, *, mapped: bool = True) -> None:
        """Load a file.

        Args:
            folder: of the library, see :func:`find_llama`.
            file: the GGUF file.
            mapped: map the file's pages into memory; else read them.

        Raises:
            StepError: llama.cpp does not load it, or it is mapped although it should not be.
        """
        self._library = _library(folder)
        parameters = self._library.llama_model_default_params()
        _use_no_gpu(parameters)
        if not mapped:
            _read_file(self._library, parameters)
        self._model = self._library.llama_model_load_from_file(str(file).encode(), parameters)
        if not self._model:
            raise StepError(
                f"llama.cpp does not load {file.name}", hint="please report it, with the model's family"
            )
        if not mapped and _is_mapped(file):
            raise StepError(_UNKNOWN_RELEASE)
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self.tokens = int(self._library.llama_vocab_n_tokens(self._vocabulary))
        """In its vocabulary."""

    def close(self) -> None:
        """Free the model."""
        self._library.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, without what a tokenizer puts before and after it."""
        data = text.encode()
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), ids, room, False, True)
        if count < 0:
            raise StepError(f"llama.cpp makes more than {room} tokens of {len(data)} bytes")
        return ids[:count]

    @contextmanager
    def session(self, tokens: int, threads: int) -> Iterator["Session"]:
        """Yield a session with room for so many tokens."""
        parameters = self._library.llama_context_default_params()
        defaults = (_CONTEXT, _BATCH, _SMALL_BATCH, _SEQUENCES)
        if struct.unpack_from("4I", parameters.bytes) != defaults:
            raise StepError(_UNKNOWN_RELEASE)
        fields = struct.unpack_from("32i", parameters.bytes)
        place = next((at for at in range(4, 12) if fields[at : at + 2] == (_THREADS, _THREADS)), None)
        if place is None:
            raise StepError(_UNKNOWN_RELEASE)
        batch = min(tokens, BATCH)
        struct.pack_into("3I", parameters.bytes, 0, tokens, batch, batch)
        struct.pack_into("2i", parameters.bytes, 4 * place, threads, threads)
        context = self._library.llama_init_from_model(self._model, parameters)
        if not context:
            raise StepError("llama.cpp makes no context")
        room = self._library.llama_batch_init(batch, 0, 1)
        try:
            yield Session(self._library, context, room, self.tokens)
        finally:
            self._library.llama_batch_free(room)
            self._library.llama_free(context)

    def logits(self, ids: Sequence[int], threads: int = 1) -> NDArray[np.float32]:
        """Return the logits ``[tokens, vocabulary]`` of one window."""
        with self.session(len(ids), threads) as session:
            return np.concatenate(
                [session.logits(ids[first : first + BATCH]) for first in range(0, len(ids), BATCH)]
            )


class Session:
    """A sequence of tokens that grows."""

    def __init__(self, library: Any, context: Any, batch: _Batch, vocabulary: int) -> None:
        self._library, self._context, self._batch = library, context, batch
        self._vocabulary = vocabulary
        self._length = 0

    def feed(self, ids: Sequence[int]) -> None:
        """Compute tokens, in batches of :data:`BATCH`; logits are computed of the last one, as a server does."""
        for first in range(0, len(ids), BATCH):
            self._compute(ids[first : first + BATCH], every=False)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Compute at most :data:`BATCH` tokens, and return the logits ``[tokens, vocabulary]`` of each."""
        self._compute(ids, every=True)
        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, shape=(len(ids), self._vocabulary)).copy()

    def _compute(self, ids: Sequence[int], *, every: bool) -> None:
        batch, last = self._batch, len(ids) - 1
        batch.n_tokens = len(ids)
        for place, number in enumerate(ids):
            batch.token[place], batch.pos[place] = number, self._length + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = every or place == last
        if code := self._library.llama_decode(self._context, batch):
            raise StepError(f"llama.cpp cannot compute {len(ids)} tokens: {code}")
        self._length += len(ids)


BATCH = 512
"""Tokens that are computed together, llama.cpp's own default."""
_UNKNOWN_RELEASE = "this release of llama.cpp has other parameters than those that are known"
_NO_DEVICES = (ctypes.c_void_p * 1)()
"""A list of devices that ends at once."""
_SPLIT_BY_LAYER = 1
"""Default of ``llama_model_params.split_mode``, behind the number of layers on a GPU; two pointers come before."""


def _use_no_gpu(parameters: _Parameters) -> None:
    *pointers, _, split = struct.unpack_from("QQii", parameters.bytes)
    if any(pointers) or split != _SPLIT_BY_LAYER:
        raise StepError(_UNKNOWN_RELEASE)
    struct.pack_into("Q", parameters.bytes, 0, ctypes.addressof(_NO_DEVICES))


def _read_file(library: Any, parameters: _Parameters) -> None:
    """Let a file be read, not mapped."""
    if hasattr(library, "llama_load_mode_from_str"):  # since b10228
        mode = library.llama_load_mode_from_str
        mode.restype, mode.argtypes = ctypes.c_int, [ctypes.c_char_p]
        place = 24  # behind split_mode; later releases choose between mapping and reading themselves
        if struct.unpack_from("i", parameters.bytes, place)[0] not in (mode(b"auto"), mode(b"mmap")):
            raise StepError(_UNKNOWN_RELEASE)
        struct.pack_into("i", parameters.bytes, place, mode(b"none"))
        return
    place = 64  # vocab_only, use_mmap
    if struct.unpack_from("2B", parameters.bytes, place) != (0, 1):
        raise StepError(_UNKNOWN_RELEASE)
    struct.pack_into("B", parameters.bytes, place + 1, 0)


def _is_mapped(file: Path) -> bool:
    """Return whether this process has the file's pages in its memory; False where that cannot be seen."""
    maps = Path("/proc/self/maps")
    return maps.exists() and str(file.resolve()) in maps.read_text()

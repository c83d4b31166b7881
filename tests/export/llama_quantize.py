"""llama.cpp's own quantization of GGUF files, by ctypes."""

import ctypes
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

from studyctl.llama import _library

FILE_TYPES = {
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18,
    "IQ2_XXS": 19, "IQ2_XS": 20, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ2_S": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32,
    "TQ1_0": 36, "TQ2_0": 37,
}  # fmt: skip
"""``llama_ftype`` by the type that most matrices get; some are mixtures, such as Q4_K_M."""
PRESETS = {
    "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17,
}  # fmt: skip
"""``llama_ftype`` of the mixtures that a type alone does not name."""
_THREADS_AT, _TYPE_AT, _IMATRIX_AT = 0, 4, 24
"""Places of fields in ``llama_model_quantize_params``."""


class _Parameters(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * 512)]


class _Importance(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    ]


def random_importances(source: Path) -> dict[str, NDArray[np.float32]]:
    """Return a number for each input of each matrix of a file."""
    random = np.random.default_rng(0)
    return {
        tensor.name: random.uniform(0.1, 1, int(tensor.shape[0])).astype(np.float32)
        for tensor in GGUFReader(source).tensors
        if len(tensor.shape) == 2
    }


def quantize(
    llama: Path,
    source: Path,
    target: Path,
    kind: str,
    importances: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """Quantize a file, with random importances of inputs unless others are given: without any the smallest types are refused."""
    library = _library(llama)
    library.llama_model_quantize_default_params.restype = _Parameters
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    library.llama_model_quantize.restype = ctypes.c_uint32
    importances = random_importances(source) if importances is None else importances
    table = (_Importance * (len(importances) + 1))()
    for place, (name, values) in enumerate(importances.items()):
        data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        table[place] = _Importance(name.encode(), data, values.size)
    parameters = library.llama_model_quantize_default_params()
    struct.pack_into("i", parameters.bytes, _THREADS_AT, 1)
    struct.pack_into("i", parameters.bytes, _TYPE_AT, (FILE_TYPES | PRESETS)[kind])
    if importances:
        struct.pack_into("Q", parameters.bytes, _IMATRIX_AT, ctypes.addressof(table))
    code = library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    assert code == 0

"""What an export can be."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """What is written."""

    FOLDER = "folder"
    """For transformers and vLLM."""
    GGUF = "gguf"
    """One file, for llama.cpp."""


class Embeddings(StrEnum):
    """How a GGUF file stores the matrices over the vocabulary; without one, as they were measured."""

    Q8_0 = "q8_0"
    F16 = "f16"
    BF16 = "bf16"

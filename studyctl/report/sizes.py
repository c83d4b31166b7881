"""The size of a model as it is deployed: the column of MiB, and what there is to say of pruned models."""

from collections.abc import Iterable

from rich.text import Text

from studyctl.contract.methods import METHODS, Pruning, Quantization
from studyctl.report.layout import mib
from studyctl.store.results import Size, Standing

OF_PRUNED = (
    "A pruned model is stored like the dense one, at 16 bits a weight, and no runtime gains from its zeros (speed as measured, times that of dense: "
    "llama.cpp 0.98 to 0.99, torch 0.97 to 1.07, sparse rows (CSR) at 75 % zeros 0.45; vLLM has removed 2:4); its "
    "bits_per_weight counts a bitmap that no runtime reads."
)
SIZES = {Size.FILE: "MiB of the GGUF file", Size.STORED: "MiB as stored", Size.BITS: "bits a weight"}
"""What charts of size show."""


def is_pruned(row: Standing) -> bool:
    """Return whether a trial is pruned and not quantized as well."""
    kind = METHODS[row.method].settings if row.method in METHODS else None
    return kind is not None and issubclass(kind, Pruning) and not issubclass(kind, Quantization)


def mib_cells(rows: Iterable[Standing]) -> list[Text]:
    """Return MiB of the GGUF file; in brackets of the weights as a folder stores them, where there is no file and others have one."""
    rows = list(rows)
    if all(row.file_mib is None for row in rows):
        return [mib(row.size_mib) for row in rows]
    alone = [row.file_mib is None and row.size_mib is not None for row in rows]
    return [Text(f"({mib(row.mib)})") if one else mib(row.mib) for row, one in zip(rows, alone, strict=True)]


def about_mib(rows: Iterable[Standing]) -> str:
    """Return what the cells of MiB are; empty without any."""
    kinds = {row.file_mib is not None for row in rows if row.mib is not None}
    if kinds == {False}:
        return "MiB: weights of the whole model as an exported folder stores them"
    brackets = "; in brackets: weights as an exported folder stores them" if False in kinds else ""
    return f"MiB: the GGUF file that `export --to gguf` writes{brackets}" if kinds else ""

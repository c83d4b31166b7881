"""Converts GGUF files to ordinary model folders in the user's cache, once.

Weights are stored in float32, which holds every value of the file exactly: ``scale · code + minimum`` with a scale and a minimum of
11 significant bits has more significant bits than bfloat16 (in which a fifth of SmolLM2-135M's Q4_1 and Q8_0 weights would be
exact) or float16 (three quarters). Loading in bfloat16 rounds once, to the same weights as if they were stored in bfloat16; in
float32 the weights are those of the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import gguf
import torch
import transformers

from studyctl.contract.identity import ModelIdentity
from studyctl.errors import StepError
from studyctl.files import atomic_folder, cache_entry, file_lock
from studyctl.reporter import Reporter
from studyctl.sources.verified import unchanged


def converted_folder(identity: ModelIdentity, reporter: Reporter) -> Path:
    """Return the model folder of a GGUF file; convert the file if there is none yet.

    Of several processes one converts and the others wait; on a disk without locks, the first that is ready has it. A folder with
    this name is always complete.

    Raises:
        StepError: the file cannot be converted, or there is no space for it.
    """
    assert identity.key is not None
    assert identity.folder is not None
    assert identity.file is not None
    folder = cache_entry("models", identity.key)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        reporter.progress(0, 1, "model", note=f"converting {identity.file} (once)")
        try:
            with atomic_folder(folder) as temporary, unchanged(identity.files, f"model `{identity.id}`"):
                _convert(identity.folder, identity.file, temporary)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            if folder.is_dir():  # another process was faster
                return folder
            raise StepError(f"cannot convert `{identity.file}`: {error}") from error
        reporter.progress(1, 1, "model", note=f"converted {identity.file}")
    return folder


@contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers read a file's header once, not three times, and make its table of names once, not for every module.

    Both are pure Python and take most of the time of a small model's conversion.
    """
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(reader), cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


@_read_once()
def _convert(source: Path, file: str, target: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=file)
    tokenizer.save_pretrained(target)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # transformers treats a model loaded from GGUF as quantized, which it refuses to save; but its weights are plain now.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)

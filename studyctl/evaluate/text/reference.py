"""The dense model's final hidden states of a batch of windows, kept on disk in place of its logits.

Files in one folder::

    <name>.safetensors           tensor ``hidden`` [windows, length - 1, hidden], in the dtype of the model; one per batch
    head-<fingerprint>.safetensors   the head that turns them into logits, once for all texts of a model

The last position of a window predicts no scored token, so it is not kept. The header has a checksum of the states; a file
that does not match it is not used.
"""

import errno
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from studyctl.errors import ProblemCode, StepError
from studyctl.evaluate.text.head import Head
from studyctl.evaluate.text.windows import Windows
from studyctl.files import atomic_path, write_atomic


@dataclass(frozen=True)
class DenseReference:
    """Final hidden states of the dense model."""

    path: Path
    windows: str
    """Fingerprint of the token ids."""
    head: str
    """Fingerprint of the head that turns the hidden states into logits."""
    states: Tensor
    """``[windows, length - 1, hidden]``."""

    def load_head(self) -> Head:
        """Return the dense model's head.

        Raises:
            StepError: its file changed or is missing.
        """
        path = _head_path(self.path, self.head)
        with suppress(OSError, SafetensorError, ValueError, LookupError, TypeError):
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                follows = json.loads(file.metadata()["follows"])
            head = Head(stored["weight"], stored.get("bias"), **follows)
            if head.fingerprint() == self.head:
                return head
        raise StepError(
            f"the dense model's head in {path} is torn or corrupt", hint="delete this file and run again"
        )


def open_reference(path: Path) -> DenseReference | None:
    """Return what :func:`keep_reference` wrote, or None if it is missing, torn or corrupt."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            # Not mapped: the pages of a mapped file count as memory of the process.
            states = file.get_tensor("hidden").clone()
        windows, head = metadata["windows"], metadata["head"]
        intact = checksum([states], windows, head) == metadata["checksum"]
        complete = intact and _head_path(path, head).is_file()
        return DenseReference(path, windows, head, states) if complete else None
    except (OSError, SafetensorError, LookupError, TypeError):
        return None


def keep_reference(path: Path, states: Tensor, windows: Windows, head: Head) -> None:
    """Write the hidden states of a batch; if anything fails, there is no file.

    Args:
        path: file of the reference.
        states: ``[windows, length - 1, hidden]``.
        windows: those of the states.
        head: turns them into logits.

    Raises:
        StepError: the disk is full.
        OSError: the folder cannot be written.
    """
    states = states.contiguous()
    windows_hash, head_hash = fingerprint(windows), head.fingerprint()
    about = {
        "windows": windows_hash,
        "head": head_hash,
        "checksum": checksum([states], windows_hash, head_hash),
    }
    head_path = _head_path(path, head_hash)
    with room_for(path):
        if not head_path.exists():
            tensors = {"weight": head.weight.cpu().contiguous()}
            if head.bias is not None:
                tensors["bias"] = head.bias.cpu().contiguous()
            follows = json.dumps({"scale": head.scale, "softcap": head.softcap})
            with atomic_path(head_path) as temporary:  # not a copy in memory: a large vocabulary's is large
                save_file(tensors, temporary, {"follows": follows})
        write_atomic(path, save({"hidden": states}, about))


def check_windows(reference: DenseReference, windows: Windows) -> None:
    """Raise StepError if a reference is not of these windows."""
    if reference.windows != fingerprint(windows):
        raise StepError(
            f"the dense reference {reference.path} was made with other tokens",
            hint="a model with another tokenizer cannot be compared token by token; otherwise delete this file",
        )


def reference_lost(language: str) -> StepError:
    """Return the error to raise if a reference is missing although it was there, or was made, before the model was compressed."""
    return StepError(
        f"the dense reference of {language} was lost",
        hint="run the study again",
        code=ProblemCode.REFERENCE_LOST,
    )


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says so.

    Raises:
        StepError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StepError(
                f"no space left for the dense reference {path}",
                hint="free some disk space, or score fewer windows",
            ) from error
        raise


def checksum(tensors: Iterable[Tensor], *about: str) -> str:
    """Return the hash of contiguous tensors in host memory and of what they belong to: 32 hex digits."""
    state = hashlib.blake2b(" ".join(about).encode(), digest_size=16)
    for tensor in tensors:
        state.update(f" {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.view(torch.uint8).numpy().data)
    return state.hexdigest()


def fingerprint(windows: Windows) -> str:
    """Return the hash of the token ids: 32 hex digits."""
    shape = str(windows.ids.shape).encode()
    return hashlib.blake2b(shape + windows.ids.tobytes(), digest_size=16).hexdigest()


def _head_path(reference: Path, head: str) -> Path:
    return reference.with_name(f"head-{head}.safetensors")

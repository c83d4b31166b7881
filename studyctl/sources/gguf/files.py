"""Checkpoints that are GGUF files: their identity, and whether they are of the model that they are compared with; without torch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from studyctl.contract.gguf import FAMILIES
from studyctl.contract.identity import GGUF, ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.gguf.header import EMBEDDING, Header, describe_gguf, read_header
from studyctl.sources.hashes import identify_file, remembered
from studyctl.sources.model_files import described
from studyctl.sources.vocabularies import read_vocabulary

SUFFIX = ".gguf"
READER_VERSION = 1
"""Raised when the same GGUF file is read as other weights."""
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SIZES = {
    "layers": "blocks",
    "hidden_size": "hidden units",
    "intermediate_size": "units in the MLP",
    "heads": "attention heads",
    "kv_heads": "heads of keys and values",
    "head_dim": "units a head",
    "vocab_size": "rows of the embedding",
}
"""Sizes of a model -> what they count."""
_SPACE = "▁"
"""SentencePiece's; llama.cpp's converter writes it as a space where a token was added."""


def identify_gguf(settings: Checkpoint, base: Path) -> ModelIdentity:
    """Return the identity of a checkpoint that is a GGUF file: of this machine, or of a repository of the hub.

    Args:
        settings: its table.
        base: folder that a relative path is resolved against.

    Raises:
        StudyError: it is missing, gated, one part of several, no GGUF file, cut short, damaged, or of an unknown family.
    """
    path = base / Path(settings.id).expanduser()
    if _SPLIT.search(settings.id):
        raise _split(settings.id)
    if not _is_local(settings.id, base):
        return _identify_on_hub(settings)
    if not path.is_file():
        raise StudyError(f"GGUF file `{path}` does not exist")
    folder = path.parent.resolve()
    file = identify_file(folder / path.name)
    return ModelIdentity(
        id=settings.id,
        kind="file",
        key=digest(["checkpoint", "gguf", file.sha256, READER_VERSION]),
        folder=folder,
        files=(file,),
        file=path.name,
        **_facts(file.path, settings.id),
    )


def _is_local(checkpoint_id: str, base: Path) -> bool:
    """Return whether an id is a path, not a file of a repository ``owner/name``: it begins like one, or its first folder exists."""
    first, *others = checkpoint_id.split("/")
    return checkpoint_id.startswith(("/", ".", "~")) or len(others) < 2 or (base / first).exists()


def _identify_on_hub(settings: Checkpoint) -> ModelIdentity:
    from studyctl.sources import hub  # a study of local models starts a quarter of a second sooner without it

    owner, name, file = settings.id.split("/", 2)
    repo = f"{owner}/{name}"
    try:
        revision = hub.resolve("model", repo, settings.revision)
        folder = hub.cached_folder("model", repo, revision.commit, file)
        if revision.files is not None and file not in revision.files:
            others = ", ".join(sorted(other for other in revision.files if other.endswith(SUFFIX)))
            raise StudyError(
                f"`{repo}` has no file `{file}`", hint=f"it has {others}" if others else "it has no GGUF file"
            )
        # Of a file that is not here only the size is known: its header is checked once it is downloaded.
        size = hub.file_bytes(repo, revision.commit, file) if folder is None else 0
    except hub.HubUnreachable as error:
        return ModelIdentity(id=settings.id, kind="hub", key=None, unknown=str(error))
    facts = _facts(folder / file, settings.id) if folder is not None else _unread(size)
    return ModelIdentity(
        id=settings.id,
        kind="hub",
        key=digest(["checkpoint", "gguf", repo, file, revision.commit, READER_VERSION]),
        revision=settings.revision,
        commit=revision.commit,
        folder=folder,
        file=file,
        note=revision.note,
        **facts,
    )


def with_facts(identity: ModelIdentity, folder: Path) -> ModelIdentity:
    """Return the identity of a GGUF file that was not here when it was identified, with what its header says.

    Raises:
        StudyError: no GGUF file, cut short, damaged, or of an unknown family.
    """
    assert identity.file is not None
    return replace(identity, folder=folder, **_facts(folder / identity.file, identity.id))


def _facts(path: Path, where: str) -> dict[str, Any]:
    header = read_header(path)
    parts = header.fields.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise _split(where)
    config, tensors = describe_gguf(header, where)
    return described(config, tensors, where) | _unread(path.stat().st_size)


def _unread(size: int) -> dict[str, Any]:
    return {"storage": GGUF, "weight_bytes": size, "tokenizer": False}


def _split(where: str) -> StudyError:
    return StudyError(
        f"`{where}` is one part of a GGUF file that was split",
        hint="make one file of all parts: `llama-gguf-split --merge` with the first part and a new name",
    )


def differences(checkpoint: ModelIdentity, base: ModelIdentity) -> Iterator[str]:
    """Yield how a GGUF file is not of the model that it is compared with, as sentences; nothing if it is not here yet.

    Args:
        checkpoint: the file.
        base: the model.

    Raises:
        StudyError: the file, or the tokenizer of the model, cannot be read.
    """
    family, own = base.config.get("model_type"), checkpoint.config.get("model_type")
    where = f"`{checkpoint.id}`"
    if family not in FAMILIES:
        yield f"{where} cannot be read as a model of the family {family}: GGUF files of {', '.join(FAMILIES)} can"
    elif checkpoint.folder is not None and own != family:
        yield f"{where} is of the family {own}, `{base.id}` of {family}"
    elif checkpoint.folder is not None:
        sizes = [
            f"{theirs:,} {what}, `{base.id}` has {ours:,}"
            for size, what in _SIZES.items()
            if (theirs := getattr(checkpoint, size)) != (ours := getattr(base, size))
        ]
        yield from (f"{where} has {size}" for size in sizes)
        if not sizes and (difference := _vocabulary_differs(checkpoint, base)):
            yield f"{where} {difference}"


def _vocabulary_differs(checkpoint: ModelIdentity, base: ModelIdentity) -> str:
    """Return how the tokens of a file differ from a model's; empty if they do not, or if its tokenizer is not here."""
    path, base_folder = gguf_path(checkpoint), base.folder
    if base_folder is None:
        return ""

    def compute(path: Path) -> str:
        if base.kind == "package":
            vocabulary = dict(enumerate(read_header(gguf_path(base)).tokens))
        else:
            vocabulary = read_vocabulary(base_folder)
        return tokens_differ(read_header(path), vocabulary, base.id) if vocabulary else ""

    return remembered(path, f"tokens beside {base.id} {base.key} {READER_VERSION}", compute)


def gguf_path(identity: ModelIdentity) -> Path:
    """Return the place of a model's GGUF file, which is here."""
    assert identity.folder is not None
    assert identity.file is not None
    return identity.folder / identity.file


def tokens_differ(header: Header, vocabulary: Mapping[int, str], base: str) -> str:
    """Return how the tokens of a file differ from a vocabulary, as a part of a sentence; empty if they do not.

    Rows of the embedding that no token has are called ``[PAD17]`` in files; a token without a row is in none.

    Args:
        header: of the file.
        vocabulary: id -> token.
        base: names the vocabulary's model.
    """
    tokens, rows = header.tokens, header.tensors[EMBEDDING].shape[0]
    if len(tokens) != rows:
        return f"has {len(tokens):,} tokens for {rows:,} rows of its embedding"
    for number, theirs in enumerate(tokens):
        ours = vocabulary.get(number, f"[PAD{number}]")
        if theirs != ours and theirs.replace(_SPACE, " ") != ours.replace(_SPACE, " "):
            return f"has another vocabulary than `{base}`: token {number} is {theirs!r}, not {ours!r}"
    return ""

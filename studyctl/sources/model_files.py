"""The identity of a model, without loading it: configs, headers, hashes, commits."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studyctl.contract.identity import PLAIN, ModelIdentity
from studyctl.errors import StudyError, closest
from studyctl.files import digest
from studyctl.sources.configs import ADAPTER, block_matrices, check_decoder, read_config, read_sizes
from studyctl.sources.gguf.header import describe_gguf, read_header
from studyctl.sources.hashes import identify_file
from studyctl.sources.packages import PREFIX, find_package_file
from studyctl.sources.safetensors_files import (
    INDEX,
    PICKLE_INDEX,
    TensorInfo,
    check_pickle,
    listed_tensors,
    read_headers,
    weight_files,
)
from studyctl.sources.storage import quantization, storage_format
from studyctl.sources.tensor_names import check_names, embedding_rows
from studyctl.sources.text_files import NAMED, nearby
from studyctl.sources.vocabularies import largest_token
from studyctl.spec.models import Model

CONVERSION_VERSION = 1
"""Raised when the same GGUF file is converted to other weights."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A tokenizer has at least one of these."""
_OUTPUT_WEIGHTS = ("lm_head.weight", "embed_out.weight", "output.weight")


def identify_model(model: Model, base: Path, *, needs_tokenizer: bool = True) -> ModelIdentity:
    """Return the identity of a model of the spec.

    Args:
        model: its table.
        base: folder that a relative path is resolved against.
        needs_tokenizer: whether a folder or repository without one is refused.

    Raises:
        StudyError: it is missing, gated, no decoder, incomplete or cut short, pickle only, or its config is unreadable.
    """
    if model.id.startswith(PREFIX):
        return _identify_package(model)
    folder = base / Path(model.id).expanduser()
    if model.id.endswith(".gguf") and not folder.is_dir():
        raise StudyError(
            f"`{model.id}` is a GGUF file, not a model folder",
            hint="name the model that it was made from, and measure the file beside it: a `[[compression]]` table with "
            f'`method = "checkpoint"`, `id = "{model.id}"` and `of`, the id of that model',
        )
    if folder.exists() or model.id.startswith(("/", ".", "~")) or model.id.count("/") > 1:
        return _identify_folder(model, folder, needs_tokenizer)
    return _identify_hub(model, needs_tokenizer)


def _identify_folder(model: Model, folder: Path, needs_tokenizer: bool) -> ModelIdentity:
    if not folder.is_dir():
        what = "is a file, not a model folder" if folder.exists() else "does not exist"
        raise StudyError(f"model folder `{folder}` {what}", hint=_models_near(model.id, folder))
    config = read_config(folder / "config.json", str(folder))
    check_decoder(config, model.id)
    names = loaded_files(folder, allow_pickle=model.allow_pickle)
    has_tokenizer = _has_tokenizer(names, model.id, needs_tokenizer)
    folder = folder.resolve()
    tensors = read_headers(folder / name for name in names)
    files = tuple(identify_file(folder / name) for name in names)
    facts = described(config, tensors, model.id)
    facts["caveats"] += tuple(_folder_caveats(folder, tensors, facts["vocab_size"], model.id))
    return ModelIdentity(
        id=model.id,
        kind="folder",
        key=digest(["folder", *((file.path.name, file.sha256) for file in files)]),
        folder=folder,
        files=files,
        tokenizer=has_tokenizer,
        **facts,
    )


def _models_near(written: str, folder: Path) -> str:
    """Return which model was meant by a folder that is missing, or what there is."""
    models = sorted(config.parent.name for config in folder.parent.glob("*/config.json"))
    if close := closest(folder.name, models):
        return f"did you mean `{written.rstrip('/').removesuffix(folder.name)}{close}`?"
    listed = ", ".join(f"`{name}`" for name in models[:NAMED])
    return f"models in `{folder.parent}`: {listed}" if listed else nearby(folder)


def _identify_package(model: Model) -> ModelIdentity:
    path = find_package_file(model.id)
    header = read_header(path)
    config, tensors = describe_gguf(header, path.name)
    file = identify_file(path)
    return ModelIdentity(
        id=model.id,
        kind="package",
        key=digest(["gguf", file.sha256, CONVERSION_VERSION]),
        folder=path.parent,
        files=(file,),
        file=path.name,
        **(described(config, tensors, model.id) | {"weight_bytes": header.stored_bytes}),
    )


def _identify_hub(model: Model, needs_tokenizer: bool) -> ModelIdentity:
    # Imported here: a study of local models starts a quarter of a second sooner without it.
    from studyctl.sources import hub

    repo = model.id
    try:
        revision = hub.resolve("model", repo, model.revision)
        commit = revision.commit
        config = read_config(hub.download_file(repo, commit, "config.json"), repo)
        check_decoder(config, repo)
        has_tokenizer = revision.files is not None and _has_tokenizer(revision.files, repo, needs_tokenizer)
        folder = hub.cached_folder("model", repo, commit)
        if folder is not None:
            try:
                names = loaded_files(folder, allow_pickle=model.allow_pickle)
                has_local = _has_tokenizer(names, repo, needs_tokenizer or has_tokenizer)
                has_tokenizer = has_tokenizer or has_local
            except StudyError:  # only a part was downloaded, such as the config
                folder = None
        tensors = read_headers(folder / name for name in names) if folder else hub.read_tensors(repo, commit)
    except hub.HubUnreachable as error:
        return ModelIdentity(id=repo, kind="hub", key=None, unknown=str(error))
    if tensors is None:
        check_pickle(repo, revision.files or (), allow_pickle=model.allow_pickle)
    facts = described(config, tensors or {}, repo)
    if folder is not None:
        facts["caveats"] += tuple(_folder_caveats(folder, tensors or {}, facts["vocab_size"], repo))
    return ModelIdentity(
        id=repo,
        kind="hub",
        key=digest(["hub", repo, commit]),
        revision=model.revision,
        commit=commit,
        folder=folder,
        tokenizer=has_tokenizer,
        note=revision.note,
        **facts,
    )


def described(config: dict[str, Any], tensors: dict[str, TensorInfo], where: str) -> dict[str, Any]:
    """Return the fields that config and headers determine."""
    storage, caveats = storage_format(config, tensors), list[str]()
    sizes = read_sizes(config, where)
    linears, others = dict[str, tuple[int, int]](), dict[str, int]()
    if storage == PLAIN:
        linears, others = block_matrices(tensors, str(config.get("model_type", "")))
        if tensors:
            caveats += check_names(tensors, config, sizes["layers"], sizes["vocab_size"], where)
            if not linears and not others:
                raise StudyError(
                    f"`{where}` has no linears in decoder blocks, judging by the names of its weights"
                )
        if quantization(config):
            caveats.append(
                f"config.json of `{where}` says that its weights are quantized, but they are plain: loaded as such"
            )
    return {
        **sizes,
        "vocab_size": embedding_rows(tensors, sizes["vocab_size"]),
        "storage": storage,
        "caveats": tuple(caveats),
        "config": config,
        "linears": linears,
        "others": others,
        "parameters": sum(math.prod(info.shape) for info in tensors.values()),
        "weight_bytes": sum(info.bytes for info in tensors.values()),
        # A tied output layer stores no weight of its own.
        "tied": not any(name.endswith(_OUTPUT_WEIGHTS) for name in tensors)
        if tensors
        else bool(config.get("tie_word_embeddings")),
    }


def _folder_caveats(
    folder: Path, tensors: dict[str, TensorInfo], vocab_size: int, where: str
) -> Iterator[str]:
    """Yield what may go wrong with the files of a folder beside its weights, as sentences."""
    if tensors and (lost := sorted(listed_tensors(folder) - tensors.keys())):
        yield f"{INDEX} of `{where}` names {len(lost)} tensors that its files do not have, such as `{lost[0]}`"
    if (folder / ADAPTER).is_file():
        yield f"`{where}` holds an adapter as well ({ADAPTER}), which is applied only where peft is installed: merge or remove it"
    largest = largest_token(folder)
    if largest is not None and largest[0] >= vocab_size:
        yield (
            f"the tokenizer of `{where}` has ids up to {largest[0]:,} (`{largest[1]}`), its embedding {vocab_size:,} rows: "
            "a text or task with a token beyond them cannot be measured"
        )


def _has_tokenizer(names: Iterable[str], where: str, needed: bool) -> bool:
    """Return whether these files include a tokenizer.

    Raises:
        StudyError: there is none, and it is needed.
    """
    is_there = not set(names).isdisjoint(_VOCABULARIES)
    if needed and not is_there:
        raise StudyError(
            f"`{where}` has no tokenizer: none of {', '.join(_VOCABULARIES)}",
            hint="copy the tokenizer of the model it was made from",
        )
    return is_there


def loaded_files(folder: Path, *, allow_pickle: bool) -> list[str]:
    """Return the names of all files of a model folder that are loaded: config, weights and their index, tokenizer.

    Raises:
        StudyError: weights are missing.
    """
    weights = [path.name for path in weight_files(folder, allow_pickle=allow_pickle)]
    others = (INDEX, PICKLE_INDEX, *TOKENIZER_FILES)
    return ["config.json", *weights, *(name for name in others if (folder / name).is_file())]

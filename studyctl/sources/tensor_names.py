"""What the names, shapes and dtypes of a model's tensors tell before anything is loaded: wrappers and gaps.

transformers looks tensors up by name, and a model with a missing or an additional one is refused when it is loaded. Here the faults
that are certain are errors, so that they show in the plan; what only loading can settle is a caveat.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from studyctl.errors import StudyError
from studyctl.sources.safetensors_files import TensorInfo

_BLOCK = re.compile(r"((?:.*?\.)?(?:layers|h|blocks|block|layer))\.(\d+)\.(.+)")
_BLOCK_PATHS = frozenset(
    {
        *(
            "layers",
            "h",
            "blocks",
            "model.layers",
            "model.model.layers",
            "decoder.layers",
            "model.decoder.layers",
        ),
        *("transformer.h", "transformer.blocks", "backbone.layers", "backbone.blocks", "gpt_neox.layers"),
        *(
            "gpt_neox_japanese.layers",
            "biogpt.layers",
            "cpmant.encoder.layers",
            "encoder.layers",
            "rwkv.blocks",
        ),
        *(
            "model.language_model.layers",
            "language_model.model.layers",
            "language_model.layers",
            "git.encoder.layer",
        ),
        *("transformer.transformer.h",),
    }
)
"""Paths under which decoders of transformers keep their blocks, with and without the name of the model inside."""
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_model"}
)
_ADAPTERS = frozenset(
    {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "base_layer", "modules_to_save"}
)
_EMBEDDING = re.compile(
    r"(?:.*\.)?(?:embed_tokens|word_embeddings?|wte|embeddings?|embed_in|input_embedding|tok_embeddings|tokens_embed)\.weight"
)
_FEW = 0.1
"""Blocks with fewer weights than the others are a caveat only if they are at most this fraction: in some families many have fewer."""


def embedding_rows(tensors: Mapping[str, TensorInfo], vocab_size: int) -> int:
    """Return how many token ids a model has a row for: ``vocab_size``, or more where its embedding shows that."""
    rows = (info.shape[0] for name, info in tensors.items() if _is_embedding(name, info))
    return max((vocab_size, *rows)) if vocab_size else 0


def _is_embedding(name: str, info: TensorInfo) -> bool:
    return len(info.shape) == 2 and _BLOCK.match(name) is None and _EMBEDDING.fullmatch(name) is not None


def check_names(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], layers: int, vocab_size: int, where: str
) -> list[str]:
    """Refuse plain weights that transformers cannot load, judging by names and shapes.

    Args:
        tensors: all of the model.
        config: its ``config.json``.
        layers: its number of blocks.
        vocab_size: of the config.
        where: names the model in errors.

    Returns:
        What only loading can settle, as sentences.

    Raises:
        StudyError: names carry a prefix or an adapter, or blocks, the embedding or the output layer are missing.
    """
    for name in tensors:
        parts = set(name.split("."))
        if parts & _ADAPTERS:
            raise StudyError(
                f"`{where}` has a LoRA adapter beside its weights (`{name}`)",
                hint="merge it: `merge_and_unload()` of peft, then `save_pretrained`",
            )
        if wrapper := next(iter(parts & _WRAPPERS), None):
            raise StudyError(
                f"the tensors of `{where}` have names of a wrapper, `{name}`, so that transformers would find none of them",
                hint=f"take `{wrapper}.` out of the names: save the model inside the wrapper with `save_pretrained`",
            )
    outside = {
        name: info for name, info in tensors.items() if len(info.shape) == 2 and not _BLOCK.match(name)
    }
    _check_vocabulary(outside, config, vocab_size, where)
    return [*_blocks(tensors, layers, where), *_embedding_caveats(outside, vocab_size, where)]


def _check_vocabulary(
    outside: Mapping[str, TensorInfo], config: Mapping[str, Any], vocab_size: int, where: str
) -> None:
    """Refuse weights without an embedding, or without an output layer where the config says that it is not the embedding.

    Args:
        outside: matrices outside of the blocks.
        config: ``config.json``.
        vocab_size: the config's.
        where: names the model.
    """
    large = [name for name, info in outside.items() if info.shape[0] >= vocab_size]
    if not large:
        small = next((name for name in outside if _EMBEDDING.fullmatch(name)), None)
        if small is None:
            raise StudyError(
                f"`{where}` has no embedding: no matrix outside of its blocks has {vocab_size:,} rows"
            )
        raise StudyError(
            f"`{small}` of `{where}` has {outside[small].shape[0]:,} rows, but its config says `vocab_size` {vocab_size:,}",
            hint="are weights and config.json of the same model?",
        )
    if len(large) == 1 and config.get("tie_word_embeddings") is False:
        raise StudyError(
            f"`{where}` has one matrix for its vocabulary, `{large[0]}`, and its config says `tie_word_embeddings` false: "
            "embedding or output layer is missing"
        )


def _embedding_caveats(outside: Mapping[str, TensorInfo], vocab_size: int, where: str) -> Iterator[str]:
    for name, info in outside.items():
        if _EMBEDDING.fullmatch(name) and info.shape[0] > vocab_size and "position" not in name:
            yield (
                f"`{name}` of `{where}` has {info.shape[0]:,} rows, its config says `vocab_size` {vocab_size:,}: "
                "most families are not loaded so"
            )


def _blocks(tensors: Mapping[str, TensorInfo], layers: int, where: str) -> Iterator[str]:
    """Yield caveats about blocks.

    Raises:
        StudyError: the only list of blocks lacks some.
    """
    by_path: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, info in tensors.items():
        if match := _BLOCK.match(name):
            by_path[match[1]][int(match[2])].update([match[3]] if len(info.shape) > 1 else [])
    path = next((path for path, blocks in by_path.items() if blocks.keys() >= set(range(layers))), None)
    if path is None:
        if (
            len(by_path) == 1
        ):  # else one of several towers, whose number of blocks the config may call otherwise
            ((path, blocks),) = by_path.items()
            missing = sorted(set(range(layers)) - blocks.keys())
            shown = ", ".join(map(str, missing[:4])) + (" ..." if len(missing) > 4 else "")
            raise StudyError(
                f"`{where}` has {layers - len(missing)} of {layers} blocks; missing: {shown} (`{path}.{missing[0]}`)",
                hint="are all of its weights there, and does `num_hidden_layers` of config.json fit?",
            )
        return
    blocks = by_path[path]
    if path not in _BLOCK_PATHS:
        yield f"the blocks of `{where}` are named `{path}`, which is not usual: loading shows whether transformers finds them"
    if more := len(blocks) - layers:
        yield f"`{where}` has {more} more blocks than its config says ({layers}): not every family ignores those"
    names, _ = Counter(map(frozenset, blocks.values())).most_common(1)[0]
    fewer = {number: sorted(names - block) for number, block in blocks.items() if block < names}
    if fewer and len(fewer) <= max(1, _FEW * layers):
        number, missing_names = min(fewer.items())
        yield f"block {number} of `{where}` has no `{missing_names[0]}`, which the other blocks have"

"""Loading a model and its tokenizer for a worker, and checking that the files are complete and the planned ones."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from studyctl.contract.identity import PLAIN, Bos, ModelIdentity
from studyctl.errors import StepError
from studyctl.reporter import Reporter, SilentReporter
from studyctl.sources.conversion import converted_folder
from studyctl.sources.dtypes import resolve_dtype
from studyctl.sources.model_files import loaded_files
from studyctl.sources.safetensors_files import weight_files
from studyctl.sources.storage import quantization
from studyctl.sources.verified import changed, unchanged


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be compressed and measured: in evaluation mode, without gradients."""

    model: nn.Module
    tokenizer: Any
    """A fast tokenizer of transformers."""
    identity: ModelIdentity
    folder: Path
    dtype: str
    """``bfloat16``, ``float16`` or ``float32``, never ``auto``."""
    device: str
    allow_pickle: bool


def bos_id(tokenizer: Any, setting: Bos, model_id: str) -> int | None:
    """Return the id of the begin-of-sequence token for a setting, or None for no such token.

    Args:
        tokenizer: of the model.
        setting: ``auto`` (as the tokenizer does by default), ``none`` or ``prepend``.
        model_id: names the model in the error.

    Raises:
        StepError: ``prepend``, and the tokenizer has no such token.
    """
    bos: int | None = tokenizer.bos_token_id
    if setting == "none":
        return None
    if setting == "prepend":
        if bos is None:
            raise StepError(
                f"the tokenizer of {model_id} has no begin-of-sequence token to prepend",
                hint='set `bos = "auto"` or `bos = "none"`',
            )
        return bos
    return bos if bos is not None and tokenizer("a").input_ids[:1] == [bos] else None


def model_folder(identity: ModelIdentity, *, allow_pickle: bool, reporter: Reporter) -> Path:
    """Return the local folder of a model, or of a checkpoint's GGUF file; download or convert it if need be.

    Raises:
        StudyError: it could not be looked up, or cannot be downloaded or converted.
    """
    if identity.kind == "package":
        return converted_folder(identity, reporter)
    if identity.folder is not None:
        return identity.folder
    from studyctl.sources import hub  # not needed for local models

    if identity.commit is None:
        raise StepError(f"model `{identity.id}` could not be looked up: {identity.unknown}")
    reporter.progress(0, 1, "model", note=f"downloading {identity.id}")
    if identity.file is not None:
        path = hub.download_file(identity.repository, identity.commit, identity.file)
        return path.parents[identity.file.count("/")]
    return hub.download_model(identity.id, identity.commit, allow_pickle=allow_pickle)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder.

    Raises:
        StepError: it cannot be loaded, or is a slow one (which cannot say where in the text a token ends).
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # what `tokenizers` raises for a malformed file has no class of its own
        raise StepError(f"the tokenizer in `{folder}` cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise StepError(f"the tokenizer in `{folder}` has no fast version, which is needed for bits per byte")
    return tokenizer


def load_model(
    identity: ModelIdentity,
    *,
    dtype: str,
    device: str,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer, and check that every weight is there, fits and is finite.

    Args:
        identity: what :func:`~studyctl.sources.model_files.identify_model` returned.
        dtype: of the spec; ``auto`` is resolved for the device.
        device: ``cpu``, ``cuda:0`` ...
        allow_pickle: load weights that exist as pickle only.
        reporter: gets the progress of downloads and conversions.

    Raises:
        StudyError: the files are missing, do not make this model, or changed since they were identified.
    """
    dtype = resolve_dtype(dtype, device)
    with planned_files(identity):
        folder = model_folder(identity, allow_pickle=allow_pickle, reporter=reporter or SilentReporter())
        tokenizer = load_tokenizer(folder)
        model = read_weights(folder, identity, dtype, allow_pickle=allow_pickle)
    make_ready(model, identity.id, device)
    return LoadedModel(model, tokenizer, identity, folder, dtype, device, allow_pickle)


@contextmanager
def planned_files(identity: ModelIdentity) -> Iterator[None]:
    """Check before and after a model's files are read that they are the planned ones.

    Raises:
        StepError: one of them changed, or a file was added that would be loaded.
    """
    with unchanged(identity.files, f"model `{identity.id}`"):
        _check_added(identity)
        yield
    _check_added(identity)


def _check_added(identity: ModelIdentity) -> None:
    if identity.kind != "folder" or identity.folder is None:
        return
    planned = {file.path.name for file in identity.files}
    for name in loaded_files(identity.folder, allow_pickle=True):
        if name not in planned:
            raise changed(f"model `{identity.id}`", identity.folder / name, "added")


def make_ready(model: nn.Module, name: str, device: str) -> None:
    """Put a model into evaluation mode, without gradients, on a device.

    Raises:
        StepError: a weight is NaN or infinite; names the first tensor that holds one.
    """
    for tensor_name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # One pass and no temporary: minimum and maximum show NaN and infinity alike (40 times as fast as isfinite).
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise StepError(f"the weights of {name} hold NaN or infinity in `{tensor_name}`")
    model.requires_grad_(False).eval().to(device)


def read_weights(folder: Path, identity: ModelIdentity, dtype: str, *, allow_pickle: bool) -> nn.Module:
    """Return the model in a folder as transformers loads it, after checking that the files have exactly its weights.

    Raises:
        StudyError: files are missing, or do not make this model.
    """
    weight_files(folder, allow_pickle=allow_pickle)
    transformers.utils.logging.disable_progress_bar()
    # sdpa silently omits soft caps, so a model that has them needs eager attention; for others transformers chooses sdpa.
    capped = identity.config.get("attn_logit_softcapping") is not None
    config = None
    try:
        if identity.storage == PLAIN and quantization(identity.config):
            # Its weights were unpacked since; what the config says would have them packed again, or looked for in vain.
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            del config.quantization_config
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,  # None would ask on the terminal
            dtype=getattr(torch, dtype),
            attn_implementation="eager" if capped else None,
            # The same arithmetic as during compression; transformers' grouped products need certain GPUs and aligned widths.
            experts_implementation="eager",
            use_safetensors=None if allow_pickle else True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below with their names
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise StepError(f"cannot load {identity.id}: {error}") from error
    faults = {
        "lack": info["missing_keys"],
        "have, besides those of the model,": info["unexpected_keys"],
        "have another shape than the model's for": [str(key[0]) for key in info["mismatched_keys"]],
    }
    for what, keys in faults.items():
        if keys:
            names = sorted(str(key) for key in keys)
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise StepError(
                f"the weights of {identity.id} {what} {', '.join(names[:4])}{more}",
                hint="are weights and config.json of the same model?",
            )
    for tensor in (*model.parameters(), *model.buffers()):
        # Memory that torch did not allocate is a mapped file: writing to that file would change the model.
        if not tensor.untyped_storage().resizable():
            tensor.data = tensor.data.clone()
    return cast("nn.Module", model)


def has_names_of_files(model: nn.Module) -> bool:
    """Return whether every parameter is in the files as in the model: not if loading renames or fuses tensors, such as experts'."""
    return not getattr(model, "_weight_conversions", None)


def restore_dense(loaded: LoadedModel, names: Iterable[str]) -> None:
    """Restore the weights of modules (linears, norms) from the files, in place, bit for bit as they were loaded.

    Args:
        loaded: a model whose weights were changed.
        names: of modules, such as ``model.layers.0.mlp.up_proj``; their own parameters are restored, not those of submodules.

    Raises:
        StepError: the files do not have a parameter under its name in the model, or changed since they were identified.
    """
    parameters = {
        f"{name}.{part}": parameter
        for name in names
        for part, parameter in loaded.model.get_submodule(name).named_parameters(recurse=False)
    }
    prefix = f"{getattr(loaded.model, 'base_model_prefix', '')}."
    # Some models were saved without their head, and so without the prefix that the causal model puts before names.
    by_stored_name = parameters | {
        name.removeprefix(prefix): parameter
        for name, parameter in parameters.items()
        if name.startswith(prefix)
    }
    restored: set[int] = set()
    with planned_files(loaded.identity):
        for name, tensor in _stored(loaded, by_stored_name.keys()):
            by_stored_name[name].data.copy_(tensor)
            restored.add(id(by_stored_name[name]))
    missing = [name for name, parameter in parameters.items() if id(parameter) not in restored]
    if missing:
        raise StepError(f"the files of {loaded.identity.id} have no tensor named {missing[0]}")


def _stored(loaded: LoadedModel, names: AbstractSet[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors with these names from the model's files."""
    for path in weight_files(loaded.folder, allow_pickle=loaded.allow_pickle):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in names & set(file.keys()):
                    yield name, file.get_tensor(name)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name in names & state.keys():
                yield name, state[name]

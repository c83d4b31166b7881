"""The step ``export``: a trial's weights as a folder, with a card that shows their measured results."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from studyctl import __version__
from studyctl.compress.weights.compressed import Compressed
from studyctl.compress.weights.stored import apply, weights_hash
from studyctl.contract.exports import ExportFormat
from studyctl.contract.job import Job
from studyctl.contract.records import ExportFacts
from studyctl.errors import StepError
from studyctl.export.card import PACKAGES, CardFacts, model_card
from studyctl.export.folder import Exported, export_model
from studyctl.export.gguf.export import export_gguf
from studyctl.export.gguf.file import GgufFile
from studyctl.files import StudyPaths
from studyctl.journal.index import ABOUT, read_stored
from studyctl.reporter import Reporter
from studyctl.sources.model_files import TOKENIZER_FILES
from studyctl.sources.models import LoadedModel
from studyctl.store.figures import read_figures

COPIED = (*TOKENIZER_FILES, "generation_config.json")


def export_weights(job: Job, loaded: LoadedModel, made_hash: str, reporter: Reporter) -> ExportFacts:
    """Export the weights in memory, to the target of ``studyctl export`` or into the study's folder.

    Args:
        job: the trial.
        loaded: the model with the trial's weights.
        made_hash: hash of these weights; empty for the dense model.
        reporter: receives progress.

    Returns:
        The folder's path, format and size.

    Raises:
        StepError: the folder cannot be written, or its weights are not those of the model.
    """
    paths = StudyPaths(job.root)
    plain = job.is_dense or job.is_checkpoint
    stored_weights = paths.find_weights(job.weights_key) or paths.trial_weights(job.weights_key)
    weights = made_hash or weights_hash(loaded.model)

    def describe(exported: Exported | GgufFile) -> dict[str, str]:
        stored = read_stored(paths)
        compressed = stored.compressed(job.weights_key, weights)
        facts = CardFacts(
            job=job,
            base=loaded.identity,
            exported=exported,
            weights_hash=weights,
            bits_per_weight=compressed.bits_per_weight if compressed else 16.0 if job.is_dense else None,
            sparsity=compressed.sparsity if compressed else None,
            figures=read_figures(paths, stored, job.weights_key, job.dense_key, job.evaluations),
            versions={"studyctl": __version__} | {name: version(name) for name in PACKAGES},
        )
        about = json.dumps(facts.as_dict(), indent=2, ensure_ascii=False)
        return {"README.md": model_card(facts), ABOUT: about + "\n"}

    target = job.export_to or paths.exported(job.trial)

    def compressed() -> (
        Compressed | None
    ):  # called where it is passed on: a reference here would keep its codes in memory
        return None if plain else apply(loaded.model, stored_weights)

    try:
        if job.export_format is ExportFormat.GGUF:
            return export_gguf(job, loaded, compressed(), target, describe, reporter)
        with files_to_copy(loaded) as files:
            exported = export_model(
                loaded.model,
                compressed(),
                target,
                files=files,
                describe=describe,
                replace=job.export_to is None,
                reporter=reporter,
            )
    except OSError as error:
        if job.export_to is None:  # the study's own folder: the worker must end
            raise
        hint = "make room or make the folder writable, or export to another one"
        raise StepError(f"{target} cannot be written: {error.strerror or error}", hint=hint) from error
    return ExportFacts(
        folder=str(target),
        format=exported.format,
        packed_bits=exported.packing.bits if exported.packing else None,
        why_plain=exported.why_plain,
        weight_bytes=exported.weight_bytes,
        stored_bits_per_weight=exported.block_bits_per_weight,
        model_bits_per_weight=exported.model_bits_per_weight,
    )


@contextmanager
def files_to_copy(loaded: LoadedModel) -> Iterator[list[Path]]:
    """Yield the files to copy next to the weights; a checkpoint without a tokenizer was measured with its base model's."""
    files = [path for name in COPIED if (path := loaded.folder / name).is_file()]
    with tempfile.TemporaryDirectory() as saved:
        if not any(path.name in TOKENIZER_FILES for path in files):
            loaded.tokenizer.save_pretrained(saved)
            files += Path(saved).iterdir()
        yield files

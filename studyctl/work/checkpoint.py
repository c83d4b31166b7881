"""The weights of a trial that measures somebody's published checkpoint."""

from typing import Any

from studyctl.contract.job import Job
from studyctl.sources.models import LoadedModel, load_tokenizer, model_folder, planned_files
from studyctl.sources.unpacking import ComparedModel, load_checkpoint, stored_bits, zero_fraction
from studyctl.work.recorder import Recorder


def load_base_tokenizer(job: Job, recorder: Recorder) -> Any:
    """Load the tokenizer of the model that a checkpoint is compared with.

    Raises:
        StudyError: it cannot be had, or changed since it was planned.
    """
    with planned_files(job.model):
        folder = model_folder(job.model, allow_pickle=job.allow_pickle, reporter=recorder)
        return load_tokenizer(folder)


def load_published(job: Job, base_tokenizer: Any, recorder: Recorder) -> LoadedModel:
    """Load the checkpoint of a job.

    Raises:
        StudyError: it is not what was planned, cannot be had, or cannot be compared with the job's model.
    """
    assert job.checkpoint is not None
    base = ComparedModel(job.model.id, base_tokenizer, job.bos, job.chat_template)
    return load_checkpoint(job.checkpoint, base, dtype=job.dtype, device=job.device, reporter=recorder)


def describe_weights(loaded: LoadedModel, recorder: Recorder) -> tuple[float | None, float]:
    """Return what the tables tell of a checkpoint's weights: bits of a weight, and the fraction of zeros."""
    bits = stored_bits(loaded.model, loaded.folder)
    if bits is None:
        recorder.warning(
            f"the files of {loaded.identity.id} name its linears otherwise: their size is not known"
        )
    return bits, zero_fraction(loaded.model)

"""The weights of a trial that measures somebody's published checkpoint."""

from studyctl.compress.settings import Checkpoint
from studyctl.errors import StageError
from studyctl.run.protocol import Job
from studyctl.run.recorder import Recorder
from studyctl.sources.identity import identify_checkpoint, identify_model
from studyctl.sources.models import LoadedModel, load_tokenizer, model_folder
from studyctl.sources.unpacking import load_checkpoint, stored_bits, zero_fraction


def load_published(job: Job, recorder: Recorder) -> LoadedModel:
    """Load the checkpoint of a job.

    Raises:
        StudyError: it is not what was planned, cannot be had, or cannot be compared with the job's model.
    """
    settings = job.method_settings()
    assert isinstance(settings, Checkpoint)
    published = identify_checkpoint(settings, job.base)
    if published.key != job.checkpoint_key:
        raise StageError(
            f"checkpoint `{settings.id}` changed since the study was planned", hint="run the study again"
        )
    base = identify_model(job.model, job.base)
    folder = model_folder(base, allow_pickle=job.model.allow_pickle, reporter=recorder)
    return load_checkpoint(
        published, job.model, load_tokenizer(folder), dtype=job.dtype, device=job.device, reporter=recorder
    )


def describe_weights(loaded: LoadedModel, recorder: Recorder) -> dict[str, object]:
    """Return what the tables tell of a checkpoint's weights."""
    bits = stored_bits(loaded.model, loaded.folder)
    if bits is None:
        recorder.warning(
            f"the files of {loaded.identity.id} name its linears otherwise: their size is not known"
        )
    return {"bits_per_weight": bits, "sparsity": zero_fraction(loaded.model)}

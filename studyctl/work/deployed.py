"""The step ``deploy``: a trial's GGUF file, and the distance to dense of what llama.cpp computes of it."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from studyctl.compress.weights.stored import apply
from studyctl.contract.job import Job
from studyctl.contract.records import FileFacts, RuntimeDistance
from studyctl.errors import StepError
from studyctl.evaluate.text.reference import DenseReference
from studyctl.evaluate.text.runtime import Continued, compare_runtime
from studyctl.evaluate.text.windows import Windows
from studyctl.export.gguf.export import compare_ids
from studyctl.export.gguf.file import write_gguf
from studyctl.export.gguf.size import name_of
from studyctl.files import StudyPaths, atomic_path
from studyctl.llama import BATCH, INSTALL, LlamaModel, find_llama
from studyctl.reporter import Reporter
from studyctl.sources.models import LoadedModel


def write_file(job: Job, loaded: LoadedModel, weights_hash: str, reporter: Reporter) -> FileFacts:
    """Write a trial's file into the study's cache, unless it is there; return its size, or why there can be none.

    Args:
        job: the trial.
        loaded: the model with the trial's weights.
        weights_hash: of these; empty for the dense model.
        reporter: gets progress.

    Raises:
        OSError: the file cannot be written.
    """
    paths = StudyPaths(job.root)
    path = paths.deployed(job.weights_key, weights_hash)
    stored = paths.find_weights(job.weights_key) or paths.trial_weights(job.weights_key)
    try:
        # Written again where it exists: its parts are compared with the weights that were measured.
        with atomic_path(path) as temporary:
            file = write_gguf(
                loaded,
                None if job.is_dense or job.is_checkpoint else apply(loaded.model, stored),
                temporary,
                name=name_of(job),
                embeddings=None,
                reporter=reporter,
            )
            compare_ids(job, loaded, temporary)
    except StepError as error:
        return FileFacts(why_none=error.problems[0].what)
    return FileFacts(bytes=file.bytes, vocabulary_bytes=file.vocabulary_bytes)


def distances(
    job: Job, file: Path, texts: Iterable[tuple[str, Windows, DenseReference]], reporter: Reporter
) -> Iterator[RuntimeDistance]:
    """Yield the distance to dense of llama.cpp's logits, for each text.

    Args:
        job: the trial.
        file: its file.
        texts: languages, their first windows, and the dense model's hidden states of these.
        reporter: gets progress.

    Raises:
        StepError: llama.cpp is not here, or does not compute the file.
    """
    if (folder := find_llama()) is None:
        raise StepError("llama.cpp's library is not here", hint=INSTALL)
    with closing(LlamaModel(folder, file)) as model:

        @contextmanager
        def sequence(tokens: int) -> Iterator[Continued]:
            with model.session(tokens, job.threads) as session:
                yield session.logits

        for language, windows, reference in texts:
            reporter.progress(0, 1, "text", f"llama.cpp in {language}")
            yield compare_runtime(sequence, windows, reference, language, BATCH, reporter)

"""``studyctl export --to gguf``: a folder with one file, proven by reading it back and by llama.cpp's own token ids."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import takewhile
from pathlib import Path

from studyctl.compress.weights.compressed import Compressed
from studyctl.contract.exports import ExportFormat
from studyctl.contract.identity import TextIdentity
from studyctl.contract.job import Job
from studyctl.contract.records import ExportFacts
from studyctl.errors import StepError, StudyError
from studyctl.export.gguf.file import GgufFile, write_gguf
from studyctl.export.gguf.size import name_of
from studyctl.files import atomic_folder
from studyctl.llama import FOLDER, LlamaModel, find_llama
from studyctl.reporter import Reporter
from studyctl.sources.models import LoadedModel
from studyctl.sources.texts import read_documents

LINES = 60
"""Of each text, whose token ids are compared."""
CHARACTERS = 2000
"""Of a line."""


def export_gguf(
    job: Job,
    loaded: LoadedModel,
    compressed: Compressed | None,
    target: Path,
    describe: Callable[[GgufFile], Mapping[str, str]],
    reporter: Reporter,
) -> ExportFacts:
    """Write a folder with a trial's GGUF file; it is complete and verified, or not made at all.

    Args:
        job: the trial.
        loaded: the model with the trial's weights.
        compressed: its compressed linears; None: all is written plain.
        target: the folder to make; missing or empty.
        describe: returns texts to write beside the file, by name, such as the model card.
        reporter: gets progress.

    Raises:
        StepError: GGUF cannot hold the model, or the file that was read back is not the model.
        OSError: the folder cannot be written.
    """
    with atomic_folder(target) as folder:
        path = folder / f"{job.trial}.gguf"
        file = write_gguf(
            loaded, compressed, path, name=name_of(job), embeddings=job.export_embeddings, reporter=reporter
        )
        ids = compare_ids(job, loaded, path)
        for text_name, text in describe(file).items():
            (folder / text_name).write_text(text, "utf-8")
    return ExportFacts(
        folder=str(target),
        format=ExportFormat.GGUF,
        weight_bytes=file.bytes,
        stored_bits_per_weight=file.block_bits_per_weight,
        model_bits_per_weight=file.model_bits_per_weight,
        notes=[*notes_of(file), ids],
    )


def notes_of(file: GgufFile) -> Iterator[str]:
    """Yield what people should know about a file."""
    types = ", ".join(f"{count} {name}" for name, count in sorted(file.types.items()))
    yield f"tensors: {types}; embeddings and head are {file.vocabulary_bytes / file.bytes:.0%} of the file"
    if file.inexact:
        yield (
            f"fp16 rounds {file.inexact:,} of {file.numbers:,} scales and minima: {file.differing:,} weights differ from those "
            f"that were measured, by at most {file.largest_difference:.1e} of the largest"
        )
    if file.rounded_embeddings:
        yield "embeddings and head are rounded: the file is not quite the model that was measured"
    if {"Q4_1", "Q5_1"} & file.types.keys():
        yield "blocks with a minimum (Q4_1, Q5_1): llama.cpp processes prompts faster with symmetric grids (Q4_0)"


def compare_ids(job: Job, loaded: LoadedModel, path: Path) -> str:
    """Compare the token ids of the study's texts with llama.cpp's; return what was compared.

    Raises:
        StepError: they differ.
    """
    if (folder := find_llama()) is None:
        return f"token ids are not compared: there is no llama.cpp here ({FOLDER} names its folder)"
    lines = [(text, line) for text in _texts(job) for line in _lines(text)]
    with closing(LlamaModel(folder, path)) as model:
        for text, line in lines:
            expected, seen = (
                loaded.tokenizer(line, add_special_tokens=False)["input_ids"],
                model.tokenize(line),
            )
            if seen != expected:
                same = takewhile(lambda pair: pair[0] == pair[1], zip(seen, expected, strict=False))
                place = len(list(same))
                raise StepError(
                    f"llama.cpp splits the {text} into other tokens, from token {place} of {line[:60]!r} on",
                    hint="its figures would be of other tokens than the study's; please report the model",
                )
    if not lines:
        return "the study has no text to compare token ids of"
    return f"token ids of {len(lines)} lines are llama.cpp's"


def _texts(job: Job) -> list[TextIdentity]:
    texts = list(job.text.texts.values()) if job.text is not None else []
    return texts + list(job.calibration.texts if job.calibration is not None else ())


def _lines(text: TextIdentity) -> list[str]:
    try:
        return [document[:CHARACTERS] for document in read_documents(text, LINES)[:LINES]]
    except StudyError as error:
        raise StepError(f"the token ids cannot be compared: {error}") from error

"""The work of each step of a job: from sources to tensors to records."""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from studyctl.backends import OWN
from studyctl.compress.walk.activations import check_walk
from studyctl.compress.walk.architectures import (
    FAMILIES,
    changeable_modules,
    check_linears_hold_most,
    decoder_blocks,
)
from studyctl.compress.walk.resumable import ResumableBlocks
from studyctl.compress.walk.vocabulary import vocabulary_matrices
from studyctl.compress.walk.walker import compress, zero_fraction
from studyctl.compress.weights.compressed import Compressed
from studyctl.compress.weights.stored import apply, save, weights_hash
from studyctl.contract.job import Job
from studyctl.contract.limits import block_batch_tokens, device_kind
from studyctl.contract.records import FileFacts, Items, StepFinished
from studyctl.contract.steps import ALL_WINDOWS, Step, StepKind
from studyctl.errors import StepError, StudyError
from studyctl.evaluate.text.activations import DenseStates, compare_states, keep_states
from studyctl.evaluate.text.reference import (
    DenseReference,
    check_windows,
    open_reference,
    reference_lost,
)
from studyctl.evaluate.text.score import score_windows
from studyctl.evaluate.text.windows import Windows
from studyctl.evaluate.vocabulary import check_ids
from studyctl.export.gguf.size import file_facts, header_bytes, name_of
from studyctl.files import StudyPaths, digest
from studyctl.journal.parts import keep_texts, write_items
from studyctl.llama import build
from studyctl.sources.ids_files import read_ids
from studyctl.sources.models import (
    LoadedModel,
    bos_id,
    has_names_of_files,
    load_model,
    load_tokenizer,
    model_folder,
    planned_files,
    restore_dense,
)
from studyctl.sources.tokens import calibration_ids, perplexity_windows
from studyctl.sources.unpacking import ComparedModel, checkpoint_bits, load_checkpoint
from studyctl.sources.verified import check_files, unchanged
from studyctl.work.chunk_file import ChunkFile
from studyctl.work.recorder import Recorder


class Engine:
    """Does the steps of jobs, and keeps the loaded model for further trials of it."""

    def __init__(self) -> None:
        self.loaded: LoadedModel | None = None
        self.weights_hash = ""
        self._changed: set[str] = set()
        """Modules of the loaded model whose weights may no longer be dense."""
        self._tokenizer: Any = None
        """That of the job's model, even if a checkpoint is measured."""
        self._windows: dict[str, tuple[tuple[object, ...], Windows]] = {}
        """By language, with everything that they depend on; the next job often needs the same."""
        self._batches: dict[tuple[object, ...], int] = {}
        """Batch sizes in tokens that were reduced for lack of memory, by model, dtype and kind of device."""
        self._compress_first: tuple[Step, ...] = ()
        """``compress``, if the stored weights of an earlier attempt are lost; else empty."""
        self._measure_all = False
        """Whether every evaluation runs, since the weights differ from those of the stored results."""
        self._header: tuple[tuple[str | None, ...], int] | None = None
        """Keys of a model and of what it is compared with, and the bytes of its GGUF file before the tensors."""

    # -- batches

    def batch_tokens(self, job: Job) -> int:
        """Return the tokens per forward pass: the job's, or fewer if memory ran out before."""
        return min(job.batch_tokens, self._batches.get(_batch_size_key(job), job.batch_tokens))

    def halve_batch(self, job: Job) -> None:
        """Halve the batches of this model on this kind of device from now on, and free what the failure left on a GPU."""
        self._batches[_batch_size_key(job)] = self.batch_tokens(job) // 2
        if device_kind(job.device) == "cuda":
            torch.cuda.empty_cache()

    # -- load

    def load(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Load the job's model and the trial's weights if they are stored, and compute missing dense references."""
        self.weights_hash, self._compress_first, self._measure_all = "", (), False
        _check_device(job.device)
        if job.is_checkpoint:  # `compress` loads it; of the model only the tokenizer is needed
            with planned_files(job.model):
                folder = model_folder(job.model, allow_pickle=job.allow_pickle, reporter=recorder)
                self._tokenizer = load_tokenizer(folder)
        else:
            self._load_dense(job, recorder)
        if missing := list(self._missing_references(job, recorder)):
            if job.is_checkpoint:
                self._load_dense(job, recorder)
            for batch in missing:
                self._make_reference(job, batch, recorder)
        if not job.is_dense and not job.asks_for(StepKind.COMPRESS):
            self._restore_weights(job, recorder)
        # Of every model: `compress`, whose time is compared with other packages', then finds the header.
        file = None if job.is_checkpoint else self._file_facts(job, None)
        return StepFinished(step=step, file=file if job.is_dense else None)

    def _load_dense(self, job: Job, recorder: Recorder) -> None:
        loaded, asked = self.loaded, (job.model.key, job.dtype, job.device)
        is_held = loaded is not None and (loaded.identity.key, loaded.dtype, loaded.device) == asked
        if loaded is not None and is_held and (not self._changed or has_names_of_files(loaded.model)):
            restore_dense(loaded, self._changed)
        else:
            self.loaded = loaded = None  # frees the old model before the new one is loaded
            loaded = load_model(
                job.model,
                dtype=job.dtype,
                device=job.device,
                allow_pickle=job.allow_pickle,
                reporter=recorder,
            )
            if job.is_compressed:
                check_linears_hold_most(loaded.model)
            if job.is_calibrated and job.model.config.get("model_type") not in FAMILIES:
                check_walk(loaded.model)
        self.loaded, self._changed, self._tokenizer = loaded, set(), loaded.tokenizer

    def _missing_references(self, job: Job, recorder: Recorder) -> Iterator[Step]:
        """Yield the batches whose dense reference is needed but missing or torn."""
        needed: dict[Step, None] = {}
        for step in job.steps:
            with suppress(StudyError):  # the step itself raises it again
                if step.windows is not None and job.is_compared:
                    needed |= dict.fromkeys(self._todo(job, step, recorder))
                elif step.kind is StepKind.DEPLOY and job.deploy is not None and job.deploy.windows:
                    needed |= dict.fromkeys(self._first_batches(job, recorder))
        for batch in needed:
            if batch.kind is StepKind.ACTIVATIONS:
                exists = self._dense_states(job, batch, recorder).exist()
            else:
                exists = open_reference(_reference_path(job, batch)) is not None
            if not exists:
                yield batch

    def _make_reference(self, job: Job, batch: Step, recorder: Recorder) -> None:
        """Compute the dense model's hidden states of a batch of windows."""
        assert batch.subject is not None
        assert batch.windows is not None
        windows = self._text_windows(job, batch, recorder)
        recorder.progress(0, 1, "reference", f"dense reference {batch.subject}")
        if batch.kind is StepKind.ACTIVATIONS:
            keep_states(self._model.model, self._blocks, self._dense_states(job, batch, recorder), recorder)
            return
        score_windows(
            self._model.model,
            windows.slice(*batch.windows),
            language=batch.subject,
            keep=_reference_path(job, batch),
            batch_tokens=self.batch_tokens(job),
            reporter=recorder,
        )

    def _restore_weights(self, job: Job, recorder: Recorder) -> None:
        """Apply the weights of an earlier attempt; if they are lost, plan to compress once more before anything else."""
        path = StudyPaths(job.root).find_weights(job.weights_key)
        if path is not None:
            model = self._model.model
            self._changed = _changeable(model, job)
            try:
                apply(model, path)
                path.touch()  # those used longest ago are deleted first
                self.weights_hash = weights_hash(model, vocabulary=job.settings.changes_vocabulary)
            except StepError as error:
                recorder.warning(f"{error}: compressed again")
                path.unlink(missing_ok=True)
            if self.weights_hash == job.weights_hash:
                return
        self._compress_first = (Step(StepKind.COMPRESS, key=job.weights_key),)

    def steps(self, job: Job, recorder: Recorder) -> Iterator[Step]:
        """Yield the steps to run after ``load``: the job's, and those that turn out to be needed too; an export is last."""
        yield from self._compress_first
        yield from (step for step in job.steps if step.kind is StepKind.COMPRESS)
        # `compress` has run by now: it is known whether everything is measured again.
        steps = job.evaluations if self._measure_all else job.steps
        for step in steps:
            if step.windows is not None:
                try:
                    yield from self._todo(job, step, recorder)
                except StudyError:
                    yield step  # it fails with the same error
            elif step.kind is StepKind.TASK:
                yield step
        yield from (step for step in steps if step.kind in (StepKind.DEPLOY, StepKind.EXPORT))

    def keep_weights(self, job: Job) -> None:
        """Keep the weights of a trial that is done, and of all kept ones those used last, up to the job's limit in bytes."""
        if job.export_to is not None and not self._compress_first:
            return  # an export that did not make them: a trial in progress may want them
        paths = StudyPaths(job.root)
        shutil.rmtree(paths.packed_weights(job.weights_key), ignore_errors=True)
        made, kept = paths.trial_weights(job.weights_key), paths.kept_weights(job.weights_key)
        if made.exists():
            kept.parent.mkdir(exist_ok=True)
            made.replace(kept)
        used: list[tuple[float, int, Path]] = []
        for path in kept.parent.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another worker deleted it
                about = path.stat()
                used.append((about.st_mtime, about.st_size, path))
        room = job.keep_bytes
        for _, size, path in sorted(used, reverse=True):
            room -= size
            if room < 0:
                path.unlink(missing_ok=True)

    @property
    def _model(self) -> LoadedModel:
        assert self.loaded is not None
        return self.loaded

    @property
    def _blocks(self) -> list[torch.nn.Module]:
        return [block.module for block in decoder_blocks(self._model.model)]

    # -- compress

    def compress(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Compress the model in place and store the weights; report their bits per weight and sparsity."""
        if job.is_checkpoint:
            return self._load_checkpoint(job, step, recorder)
        if job.llama_build not in (None, build()):
            raise StepError(
                "llama.cpp's library is another one here than where the study was planned",
                hint="let STUDYCTL_LLAMA name the same release on every machine",
            )
        self._load_dense(job, recorder)
        loaded = self._model
        self._changed = _changeable(loaded.model, job)  # before the first of them is written
        ids: np.ndarray | None = None
        if job.calibration is not None and job.calibration.ids is not None:
            ids = read_ids(job.calibration.ids)
        elif job.calibration is not None:
            ids = calibration_ids(job.calibration, self._tokenizer, seed=job.seed or 0, reporter=recorder)
            check_ids(ids, job.model.vocab_size, self._tokenizer, "the calibration text")
        paths = StudyPaths(job.root)
        blocks = ResumableBlocks(_taken_over_blocks(paths, job))
        result = StepFinished(step=step)
        if job.backend == OWN:
            compressed = compress(
                loaded.model,
                job.settings,
                torch.from_numpy(ids) if ids is not None else None,
                batch_tokens=block_batch_tokens(job.device, self.batch_tokens(job)),
                reporter=recorder,
                resumable=blocks,
                seed=job.seed or 0,
            )
        else:
            from studyctl.work.backend import compress_with_backend  # imports what exports do

            compressed, outcome = compress_with_backend(job, loaded, ids, recorder)
            # The package's process measured them itself.
            result.seconds, result.peak_memory_bytes = outcome.seconds, outcome.peak_memory_bytes
        path = paths.trial_weights(job.weights_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, compressed)
        for folder in paths.all_resumable_blocks(job.weights_key):
            shutil.rmtree(folder, ignore_errors=True)
        self._hash_weights(job, recorder)
        result.bits_per_weight, result.sparsity = compressed.bits_per_weight, compressed.sparsity
        result.file = self._file_facts(job, compressed)
        return result

    def _load_checkpoint(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Load a published checkpoint in place of the model; report its bits per weight and sparsity."""
        assert job.checkpoint is not None
        self.loaded = None  # frees the model before the checkpoint is loaded
        base = ComparedModel(job.model, self._tokenizer, job.bos, job.chat_template)
        loaded = load_checkpoint(job.checkpoint, base, dtype=job.dtype, device=job.device, reporter=recorder)
        self.loaded, self._changed = loaded, changeable_modules(loaded.model)
        self._hash_weights(job, recorder)
        bits = checkpoint_bits(loaded)
        if bits is None:
            recorder.warning(
                f"the files of {loaded.identity.id} have other names for its blocks: their size is unknown"
            )
        return StepFinished(
            step=step,
            bits_per_weight=bits,
            sparsity=zero_fraction(loaded.model),
            file=self._file_facts(job, None),
        )

    def _file_facts(self, job: Job, compressed: Compressed | None) -> FileFacts:
        """Return the size of the GGUF file that the weights would be exported to, or why there can be none."""
        loaded, keys = self._model, (self._model.identity.key, job.model.key)
        try:
            if self._header is None or self._header[0] != keys:
                self._header = keys, header_bytes(loaded)
            return file_facts(loaded, compressed, name_of(job), self._header[1])
        except StepError as error:
            return FileFacts(why_none=error.problems[0].what)

    def _hash_weights(self, job: Job, recorder: Recorder) -> None:
        """Hash the new weights; if stored results belong to others, plan to run every evaluation.

        Raises:
            StepError: the weights are to be exported, but others were measured.
        """
        self.weights_hash = weights_hash(self._model.model, vocabulary=job.settings.changes_vocabulary)
        if job.weights_hash in (None, self.weights_hash):
            return
        if job.export_to is not None:
            raise StepError(
                f"this machine computes other weights of {job.trial} than those that were measured, so they are not exported",
                hint="export on the machine that ran the study, or run the study here with `keep_weights = true`",
            )
        recorder.warning("the weights differ from those of the stored results: every evaluation runs again")
        self._measure_all = True

    # -- files

    def deploy(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Write the trial's GGUF file; compare what llama.cpp computes of it with the dense model."""
        from studyctl.work.deployed import distances, write_file  # few studies need it

        file = write_file(job, self._model, self.weights_hash, recorder)
        if file.bytes is not None and job.deploy is not None and job.deploy.windows:
            path = StudyPaths(job.root).deployed(job.weights_key, self.weights_hash)
            for record in distances(job, path, self._first_windows(job, recorder), recorder):
                recorder.record(record)
        return StepFinished(step=step, file=file)

    def _first_windows(self, job: Job, recorder: Recorder) -> Iterator[tuple[str, Windows, DenseReference]]:
        """Yield each language with its first windows and the dense model's hidden states of them."""
        assert job.deploy is not None
        for batch in self._first_batches(job, recorder):
            assert batch.subject is not None
            assert batch.windows is not None
            windows = self._text_windows(job, batch, recorder).slice(*batch.windows)
            if (reference := open_reference(_reference_path(job, batch))) is None:
                raise reference_lost(batch.subject)
            check_windows(reference, windows)
            yield batch.subject, windows.slice(0, job.deploy.windows), reference

    def _first_batches(self, job: Job, recorder: Recorder) -> Iterator[Step]:
        """Yield the first batch of windows of each language."""
        for step in job.evaluations:
            if step.kind is StepKind.PERPLEXITY:
                yield step.batches(self._text_windows(job, step, recorder).available)[0]

    def export(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Write the weights as a folder that transformers and vLLM load; report its place and size."""
        # A model card reads the database, whose library takes a second to import.
        from studyctl.export.trial import export_weights

        return StepFinished(step=step, exported=export_weights(job, self._model, self.weights_hash, recorder))

    # -- texts

    def _text_windows(self, job: Job, step: Step, recorder: Recorder) -> Windows:
        """Return all windows that the job asks for in the language of a step.

        Raises:
            StudyError: the text cannot be read, does not fill a window, or changed since it was planned.
        """
        assert job.text is not None
        assert step.subject is not None
        text, count = job.text.texts[step.subject], _asked_windows(job, step)
        rows = _rows(job)
        key = (text, job.model.key, job.text.sequence_length, count, job.bos, rows)
        cached = self._windows.get(step.subject)
        if cached is not None and cached[0] == key:
            check_files(text.files, str(text))
            return cached[1]
        windows = perplexity_windows(
            text,
            self._tokenizer,
            sequence_length=job.text.sequence_length,
            count=count,
            bos_id=bos_id(self._tokenizer, job.bos, job.model.id),
            reporter=recorder,
        )
        check_ids(windows.ids, rows, self._tokenizer, str(text))
        self._windows[step.subject] = key, windows
        return windows

    def _todo(self, job: Job, step: Step, recorder: Recorder) -> list[Step]:
        """Return a step for each batch of windows that is still to be measured in the language of a step.

        Raises:
            StudyError: the text cannot be read.
        """
        measured = () if self._measure_all else job.measured.get(step.key or "", ())
        batches = step.batches(self._text_windows(job, step, recorder).available)
        return [batch for batch in batches if batch.windows not in measured]

    # -- evaluate

    def perplexity(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Measure perplexity, and fidelity if the spec asks for it, on a batch of windows."""
        windows = self._text_windows(job, step, recorder)
        assert job.text is not None
        assert step.subject is not None
        assert step.windows is not None
        first, path = step.windows[0], _reference_path(job, step)
        reference = open_reference(path) if job.is_compared else None
        if (
            job.is_compared and reference is None
        ):  # lost after `load`: the weights in memory are no longer dense
            raise reference_lost(step.subject)
        asked = _asked_windows(job, step)
        if first == 0 and len(windows) < asked < ALL_WINDOWS:
            recorder.warning(f"the text in {step.subject} has {len(windows)} windows, {asked} were asked for")
        scores = score_windows(
            self._model.model,
            windows.slice(*step.windows),
            language=step.subject,
            reference=reference,
            keep=path if job.is_dense and job.text.fidelity else None,
            metrics=job.text.fidelity if job.is_compared else (),
            batch_tokens=self.batch_tokens(job),
            reporter=recorder,
            done=lambda scored: recorder.progress(first + scored, len(windows), "window"),
        )
        for record in (*scores.windows, scores.batch):
            recorder.record(record)
        return StepFinished(step=step, available=windows.available, measured=len(windows))

    def activations(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Measure the distance of hidden states to dense on a batch of windows; of the dense model, only keep them."""
        assert step.subject is not None
        dense = self._dense_states(job, step, recorder)
        model, blocks, windows = self._model.model, self._blocks, len(dense.windows)

        def done(finished: int) -> None:
            recorder.progress(finished, windows, "window")

        if job.is_dense:
            keep_states(model, blocks, dense, recorder, done)
        else:
            for record in compare_states(
                model, blocks, dense, language=step.subject, reporter=recorder, done=done
            ):
                recorder.record(record)
        return StepFinished(step=step, available=dense.windows.available, measured=windows)

    def _dense_states(self, job: Job, batch: Step, recorder: Recorder) -> DenseStates:
        """Return where the dense model's hidden states on a batch of windows are, or will be."""
        assert batch.windows is not None
        windows = self._text_windows(job, batch, recorder).slice(*batch.windows)
        folder, name = StudyPaths(job.root), job.reference_name(batch)
        paths = (folder.dense_reference(f"{name}.{number}") for number in range(len(windows)))
        return DenseStates(windows, tuple(paths))

    def task(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Score one task; its items are written to a Parquet part, and their texts once a study, which the journal then names."""
        # Importing lm-eval and datasets takes seconds and 230 MB, which only tasks need.
        from studyctl.evaluate.tasks.data import TaskRequest
        from studyctl.evaluate.tasks.score import score_task

        assert job.task is not None
        assert step.subject is not None
        task = job.task.tasks[step.subject]
        request = TaskRequest(
            task,
            shots=job.task.shots,
            limit=job.task.limit,
            chat_template=job.chat_template,
            bos=job.bos,
            main=job.task.main.get(task.name),
        )
        # The dense model's weights have no hash; its key identifies the files that they come from.
        weights = f"{job.weights_key} {self.weights_hash} {device_kind(job.device)}"
        begun = time.perf_counter()
        with ChunkFile(_chunks_folder(job, step), job.attempt, weights) as chunks:
            scores = score_task(
                self._model.model,
                self._model.tokenizer,
                request,
                batch_tokens=self.batch_tokens(job),
                reporter=recorder,
                resumable=chunks,
                reading=unchanged(task.files, f"task `{task.name}`"),
            )
        for figure in scores.metrics:
            recorder.record(figure)
        items = scores.items if job.task.keep_texts else scores.items.drop_columns("answer")
        part = write_items(StudyPaths(job.root), job.trial, job.attempt, task.name, items)
        texts = _keep_texts(job, step, scores.texts, recorder) if job.task.keep_texts else ""
        recorder.record(Items(task=task.name, part=part.name, rows=items.num_rows, texts=texts))
        return StepFinished(step=step, seconds=time.perf_counter() - begun + chunks.seconds_before)

    def forget_chunks(self, job: Job, step: Step) -> None:
        """Delete the saved chunks of a task that is complete now."""
        shutil.rmtree(_chunks_folder(job, step), ignore_errors=True)


def _changeable(model: torch.nn.Module, job: Job) -> set[str]:
    """Return the modules whose weights the job's method may change."""
    vocabulary = vocabulary_matrices(model).keys() if job.settings.changes_vocabulary else ()
    return changeable_modules(model) | set(vocabulary)


def _batch_size_key(job: Job) -> tuple[object, ...]:
    return job.model.key, job.dtype, device_kind(job.device)


def _asked_windows(job: Job, step: Step) -> int:
    """Return how many windows a job asks for in the language of a step or batch, in whatever step asks for most."""
    return max(
        other.windows[1] for other in job.evaluations if other.subject == step.subject and other.windows
    )


def _reference_path(job: Job, batch: Step) -> Path:
    return StudyPaths(job.root).dense_reference(job.reference_name(batch))


def _taken_over_blocks(paths: StudyPaths, job: Job) -> Path:
    """Return the folder of a compression's finished blocks, with those of an earlier attempt: it may only seem dead, and write on."""
    own = paths.resumable_blocks(job.weights_key, job.attempt)
    for other in reversed(paths.all_resumable_blocks(job.weights_key)):
        if not own.exists():
            with suppress(FileNotFoundError):  # taken by yet another attempt
                other.rename(own)
    return own


def _chunks_folder(job: Job, step: Step) -> Path:
    return StudyPaths(job.root).resumable_chunks(job.trial, step.key or "")


def _keep_texts(job: Job, step: Step, texts: pa.Table, recorder: Recorder) -> str:
    """Keep the texts of a task's items, once for all trials; return the name of their file, empty if it cannot be written."""
    # A chat template is part of a prompt, and models have their own.
    key = digest([step.key, job.model.key]) if job.chat_template else step.key or ""
    try:
        return keep_texts(StudyPaths(job.root), key, texts).name
    except OSError as error:
        reason = error.strerror or error
        recorder.warning(
            f"the texts of the items cannot be kept ({reason}): results are complete, but flips are numbers only"
        )
        return ""


def _check_device(device: str) -> None:
    """Raise if torch cannot use a device that the driver lists: it has the last word."""
    if device_kind(device) == "cpu":
        return
    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        raise StepError(
            f"the driver lists `{device}`, but torch {torch.__version__} can use {count} GPUs",
            hint='`nvidia-smi` says for which CUDA the driver is; `devices = "cpu"` goes without',
        )


def _rows(job: Job) -> int:
    """Return what token ids must be below: the rows of the embeddings of the job's model and its checkpoint."""
    rows = [identity.vocab_size for identity in (job.model, job.checkpoint) if identity is not None]
    return min(filter(None, rows))  # a GGUF file that was not here when it was planned has its model's

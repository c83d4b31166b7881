"""What a worker does for a step: from the job's words to tensors and back to records."""

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from studyctl.backends import OWN
from studyctl.compress.walk.architectures import changeable_modules
from studyctl.compress.walk.finished import FinishedBlocks
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.stored import apply, save, weights_hash
from studyctl.contract.identity import Bos, TextIdentity
from studyctl.contract.job import CalibrationData, Job
from studyctl.contract.limits import block_batch_tokens, device_kind
from studyctl.contract.records import Items, StepFinished, TaskFigure, TextBatch, Window
from studyctl.contract.steps import ALL_WINDOWS, Step, StepKind
from studyctl.errors import ProblemCode, StepError, StudyError
from studyctl.evaluate.text.reference import DenseReference, open_reference
from studyctl.evaluate.text.score import BatchScores, score_windows
from studyctl.evaluate.text.windows import Windows
from studyctl.export.trial import export_weights, refuse_other_weights
from studyctl.files import StudyPaths, write_atomic
from studyctl.journal.parts import write_items
from studyctl.sources.ids_files import read_ids
from studyctl.sources.models import LoadedModel, bos_id, load_model, restore_dense
from studyctl.sources.tokens import calibration_ids, perplexity_windows
from studyctl.sources.verified import check_files, unchanged
from studyctl.work.backend import compress_elsewhere
from studyctl.work.checkpoint import describe_weights, load_base_tokenizer, load_published
from studyctl.work.chunk_file import ChunkFile
from studyctl.work.recorder import Recorder


@dataclass(frozen=True)
class _Text:
    """The windows of a language, and what they were cut from: with the same, they are the same."""

    windows: Windows
    text: TextIdentity
    model_key: str | None
    """Of the model whose tokenizer it was."""
    sequence_length: int
    count: int
    bos: Bos


class Engine:
    """Holds the model that is loaded, so that trials of the same model need not load it again."""

    def __init__(self) -> None:
        self.loaded: LoadedModel | None = None
        self.weights_hash = ""
        self._changed: set[str] = set()
        self._tokenizer: Any = None
        """Of the job's model; a published checkpoint is asked the same tokens."""
        self._texts: dict[str, _Text] = {}
        """By language; the next job often asks for the same."""
        self._before: tuple[Step, ...] = ()
        self._again = False
        """Whether everything is measured again, since the weights turned out different."""

    # -- batches

    def batch_tokens(self, job: Job) -> int:
        """Return the tokens of a forward pass: those of the job, or fewer if an attempt before found that they are too many."""
        return min(job.batch_tokens, _found_batches(job).get(_batch_size_key(job), job.batch_tokens))

    def halve_batch(self, job: Job) -> None:
        """Remember that this model bears half of that only on this device, and give back what the failure left."""
        batches = {**_found_batches(job), _batch_size_key(job): self.batch_tokens(job) // 2}
        write_atomic(StudyPaths(job.root).batches, json.dumps(batches))
        if device_kind(job.device) == "cuda":
            torch.cuda.empty_cache()

    # -- load

    def load(self, job: Job, recorder: Recorder) -> StepFinished:
        """Have the job's model in memory, with its trial's weights if they are stored, its texts and its dense references."""
        self.weights_hash, self._before, self._again = "", (), False
        if job.is_checkpoint:  # it is loaded by `compress`, in the place of the model
            self._tokenizer = load_base_tokenizer(job, recorder)
        else:
            self._load_dense(job, recorder)
        if lacking := list(self._missing_references(job, recorder)):
            if job.is_checkpoint:
                self._load_dense(job, recorder)
            for batch in lacking:
                self._make_reference(job, batch, recorder)
        if not job.is_dense and not job.asks_for(StepKind.COMPRESS):
            self._restore_weights(job)
        return StepFinished(step=Step(StepKind.LOAD))

    def _load_dense(self, job: Job, recorder: Recorder) -> None:
        loaded = self.loaded
        wanted = (job.model.key, job.dtype, job.device)
        if loaded is not None and (loaded.identity.key, loaded.dtype, loaded.device) == wanted:
            restore_dense(loaded, self._changed)
        else:
            self.loaded = loaded = None  # frees the old model before the new one comes
            self.loaded = load_model(
                job.model,
                dtype=job.dtype,
                device=job.device,
                allow_pickle=job.allow_pickle,
                reporter=recorder,
            )
        assert self.loaded is not None
        self._changed, self._tokenizer = set(), self.loaded.tokenizer

    def _missing_references(self, job: Job, recorder: Recorder) -> Iterator[Step]:
        """Yield the batches for which the dense model's hidden states are needed and not there, or torn."""
        for step in job.steps if job.is_compared else ():
            if step.kind is not StepKind.PERPLEXITY:
                continue
            try:
                batches = self._todo(job, step, recorder)
            except StudyError:  # which that step raises again, as its own failure
                continue
            for batch in batches:
                if open_reference(self._reference_path(job, batch)) is None:
                    yield batch

    def _restore_weights(self, job: Job) -> None:
        """Apply the weights of an earlier attempt; without them, compress once more before anything else."""
        path = StudyPaths(job.root).trial_weights(job.weights_key)
        if path.exists():
            self._changed = changeable_modules(self._model())
            apply(self._model(), path)
            self.weights_hash = weights_hash(self._model())
            if self.weights_hash == job.weights_hash:
                return
        self._before = (Step(StepKind.COMPRESS, key=job.weights_key),)

    def steps(self, job: Job, recorder: Recorder) -> Iterator[Step]:
        """Yield the steps to run after ``load``: the job's, and what turns out to be needed beside them; an export last."""
        yield from self._before
        yield from (step for step in job.steps if step.kind is StepKind.COMPRESS)
        # Known once `compress` is done.
        wanted = job.evaluations if self._again else job.steps
        for step in wanted:
            if step.kind is StepKind.PERPLEXITY:
                try:
                    yield from self._todo(job, step, recorder)
                except StudyError:
                    yield step  # which fails with this error, as the others do with theirs
            elif step.kind is StepKind.TASK:
                yield step
        yield from (step for step in wanted if step.kind is StepKind.EXPORT)

    def forget_weights(self, job: Job) -> None:
        """Delete the stored weights of a trial that is done; an export leaves those that it found."""
        if job.export_to is None or self._before:
            paths = StudyPaths(job.root)
            paths.trial_weights(job.weights_key).unlink(missing_ok=True)
            shutil.rmtree(paths.packed_weights(job.weights_key), ignore_errors=True)

    def _model(self) -> torch.nn.Module:
        if self.loaded is None:
            raise StepError("no model is loaded")
        return self.loaded.model

    # -- compress

    def compress(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Compress the model in place, store the weights, and return what is known of them."""
        if job.is_checkpoint:
            return self._take_checkpoint(job, step, recorder)
        assert self.loaded is not None
        restore_dense(self.loaded, self._changed)
        self._changed = changeable_modules(self.loaded.model)  # known before the first is written
        ids = None if job.calibration is None else self._calibration_ids(job, job.calibration, recorder)
        paths = StudyPaths(job.root)
        finished = FinishedBlocks(paths.resumable_blocks(job.weights_key))
        result = StepFinished(step=step)
        if job.backend == OWN:
            done = compress(
                self._model(),
                job.settings,
                torch.from_numpy(ids) if ids is not None else None,
                batch_tokens=block_batch_tokens(job.device, self.batch_tokens(job)),
                reporter=recorder,
                finished=finished,
            )
        else:
            done, outcome = compress_elsewhere(job, self.loaded, ids, recorder)
            # Of its own work the other package's process knows better.
            result.seconds, result.peak_memory_bytes = outcome.seconds, outcome.peak_memory_bytes
        path = paths.trial_weights(job.weights_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, done)
        finished.clear()
        self._note_weights(job, recorder)
        result.bits_per_weight, result.sparsity = done.bits_per_weight, done.sparsity
        return result

    def _note_weights(self, job: Job, recorder: Recorder) -> None:
        """Name the weights that were made, and ask for every evaluation if stored results belong to others."""
        self.weights_hash = weights_hash(self._model())
        refuse_other_weights(job, self.weights_hash)
        if job.weights_hash not in (None, self.weights_hash):
            recorder.warning(
                "the weights differ from those of the stored results: every evaluation runs again"
            )
            self._again = True

    def _take_checkpoint(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Load a published checkpoint in the place of the model, and return what is known of it."""
        self.loaded = None  # frees the model before the checkpoint comes
        self.loaded = load_published(job, self._tokenizer, recorder)
        self._changed = changeable_modules(self.loaded.model)
        self._note_weights(job, recorder)
        bits, sparsity = describe_weights(self.loaded, recorder)
        return StepFinished(step=step, bits_per_weight=bits, sparsity=sparsity)

    def _calibration_ids(self, job: Job, calibration: CalibrationData, recorder: Recorder) -> np.ndarray:
        if calibration.ids is not None:
            return read_ids(calibration.ids)
        return calibration_ids(calibration, self._tokenizer, seed=job.seed or 0, reporter=recorder)

    # -- export

    def export(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Write the weights as a folder that transformers and vLLM load, and return what is known of it."""
        assert self.loaded is not None
        facts = export_weights(job, self.loaded, self.weights_hash, recorder)
        return StepFinished(step=step, exported=facts)

    # -- texts

    def _text(self, job: Job, step: Step, recorder: Recorder) -> Windows:
        """Return all windows that a job asks for in the language of a step.

        Raises:
            StudyError: the text cannot be read, does not fill a window, or changed since it was planned.
        """
        assert job.text is not None
        assert step.subject is not None
        text, count = job.text.texts[step.subject], _asked(job, step)
        wanted = (text, job.model.key, job.text.sequence_length, count, job.bos)
        there = self._texts.get(step.subject)
        if (
            there is not None
            and (there.text, there.model_key, there.sequence_length, there.count, there.bos) == wanted
        ):
            check_files([text.file] if text.file is not None else [], str(text))
            return there.windows
        windows = perplexity_windows(
            text,
            self._tokenizer,
            sequence_length=job.text.sequence_length,
            count=count,
            bos_id=bos_id(self._tokenizer, job.bos, job.model.id),
            reporter=recorder,
        )
        self._texts[step.subject] = _Text(windows, *wanted)
        return windows

    def _todo(self, job: Job, step: Step, recorder: Recorder) -> list[Step]:
        """Return a step for each batch of windows that is to be measured in the language of a step.

        Raises:
            StudyError: the text cannot be had.
        """
        measured = () if self._again else job.measured.get(step.key or "", ())
        batches = step.batches(self._text(job, step, recorder).available)
        return [batch for batch in batches if batch.windows not in measured]

    # -- evaluate

    def perplexity(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Measure perplexity, and fidelity where the spec asks for it, of a batch of windows."""
        assert job.text is not None
        windows = self._text(job, step, recorder)
        batch = _cut(windows, step)
        path = self._reference_path(job, step)
        reference = self._reference(job, path, step) if job.is_compared else None
        if step.windows and step.windows[0] == 0:
            self._warn_if_short(job, step, windows, recorder)
        scores = score_windows(
            self._model(),
            batch,
            reference=reference,
            keep=path if job.is_dense and job.text.fidelity else None,
            metrics=job.text.fidelity if job.is_compared else (),
            batch_tokens=self.batch_tokens(job),
            reporter=recorder,
            done=_progress(step, windows, recorder),
        )
        _record_scores(scores, step, batch, recorder)
        return StepFinished(step=step, available=windows.available, measured=len(windows))

    def _warn_if_short(self, job: Job, step: Step, windows: Windows, recorder: Recorder) -> None:
        asked = _asked(job, step)
        if len(windows) < asked < ALL_WINDOWS:
            recorder.warning(f"the text in {step.subject} has {len(windows)} windows, {asked} were asked for")

    def _reference_path(self, job: Job, batch: Step) -> Path:
        return StudyPaths(job.root).dense_reference(job.reference_name(batch))

    def _reference(self, job: Job, path: Path, batch: Step) -> DenseReference:
        """Return the dense model's hidden states, which are there since ``load``."""
        found = open_reference(path)
        if found is None:
            # Lost after `load`: the weights in memory are no longer dense.
            path.unlink(missing_ok=True)
            raise StepError(
                f"the dense reference of {batch.subject} was lost",
                hint="run the study again",
                code=ProblemCode.REFERENCE_LOST,
            )
        return found

    def _make_reference(self, job: Job, batch: Step, recorder: Recorder) -> None:
        """Compute the dense model's hidden states of a batch of windows."""
        windows = self._text(job, batch, recorder)
        recorder.progress(0, 1, "reference", f"dense reference {batch.subject}")
        score_windows(
            self._model(),
            _cut(windows, batch),
            keep=self._reference_path(job, batch),
            batch_tokens=self.batch_tokens(job),
            reporter=recorder,
        )

    def task(self, job: Job, step: Step, recorder: Recorder) -> StepFinished:
        """Score one task; its item rows go to a part that the journal then names."""
        # lm-eval and datasets are seconds of import and 230 MB that compressing, and studies without tasks, do not need.
        from studyctl.evaluate.tasks.score import TaskRequest, score_task

        assert self.loaded is not None
        assert job.task is not None
        assert step.subject is not None
        name, protocol = step.subject, job.task
        identity = protocol.tasks[name]
        request = TaskRequest(
            name=name,
            yaml=identity.yaml,
            test=identity.test,
            fewshot=identity.fewshot,
            shots=protocol.shots,
            limit=protocol.limit,
            chat_template=job.chat_template,
            bos=job.bos,
            revision=identity.commit,
            main=protocol.main.get(name),
            files=frozenset(file.path for file in identity.files),
        )
        # The dense model has no hash of its weights; its key names the files that they come from.
        weights = f"{job.weights_key} {self.weights_hash} {device_kind(job.device)}"
        begun = time.perf_counter()
        with ChunkFile(self._chunks_path(job, step), weights) as finished:
            scores = score_task(
                self._model(),
                self.loaded.tokenizer,
                request,
                batch_tokens=self.batch_tokens(job),
                reporter=recorder,
                finished=finished,
                reading=unchanged(identity.files, f"task `{name}`"),
            )
        for metric in scores.metrics:
            recorder.record(
                TaskFigure(task=name, shots=protocol.shots, limit=protocol.limit, **asdict(metric))
            )
        part = write_items(StudyPaths(job.root), job.trial, job.attempt, name, scores.items)
        recorder.record(Items(task=name, part=part.name, rows=scores.items.num_rows))
        seconds = time.perf_counter() - begun + finished.seconds_before
        return StepFinished(step=step, seconds=seconds)

    def _chunks_path(self, job: Job, step: Step) -> Path:
        return StudyPaths(job.root).resumable_chunks(job.trial, step.key or "")

    def forget_chunks(self, job: Job, step: Step) -> None:
        """Delete what would be needed to go on with a task that is finished now."""
        self._chunks_path(job, step).unlink(missing_ok=True)


def _batch_size_key(job: Job) -> str:
    """Return what a learned batch size holds for: model, dtype, device, host."""
    return f"{job.model.key} {job.dtype} {device_kind(job.device)} {platform.node()}"


def _found_batches(job: Job) -> dict[str, int]:
    """Return the tokens of a forward pass that were found by running out of memory."""
    try:
        found: dict[str, int] = json.loads(StudyPaths(job.root).batches.read_text())
    except (FileNotFoundError, ValueError):  # none yet, or deleted while it was read
        return {}
    return found


def _asked(job: Job, step: Step) -> int:
    """Return how many windows a job asks for in the language of a step, or of one of its batches."""
    return next(one.windows[1] for one in job.evaluations if one.id == step.id and one.windows is not None)


def _cut(windows: Windows, batch: Step) -> Windows:
    assert batch.windows is not None
    return windows.slice(*batch.windows)


def _progress(batch: Step, windows: Windows, recorder: Recorder) -> Callable[[int], None]:
    """Return what tells how far a language is, by the windows of a batch that are done."""
    first = batch.windows[0] if batch.windows is not None else 0
    return lambda done: recorder.progress(first + done, len(windows), "window")


def _record_scores(scores: BatchScores, batch: Step, windows: Windows, recorder: Recorder) -> None:
    assert batch.subject is not None

    def at(values: NDArray[Any] | None, place: int) -> Any:
        return None if values is None else values[place].item()

    for place in range(len(windows)):
        recorder.record(
            Window(
                language=batch.subject,
                window=at(windows.numbers, place),
                nll_nats=at(scores.nll_nats, place),
                tokens=windows.scored_tokens,
                bytes=at(windows.bytes, place),
                characters=at(windows.characters, place),
                document=at(windows.documents, place),
                kl_nats=at(scores.kl_nats, place),
                top1=at(scores.top1, place),
                signal=at(scores.signal, place),
                noise=at(scores.noise, place),
            )
        )
    recorder.record(
        TextBatch(
            language=batch.subject,
            sequence_length=windows.ids.shape[1],
            bos=windows.bos,
            kl_counts=scores.kl_counts,
        )
    )

"""What a worker does for a stage: from the job's words to tensors and back to records."""

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from studyctl.backends import OWN
from studyctl.compress.architectures import changeable_modules
from studyctl.compress.finished import FinishedBlocks
from studyctl.compress.stored import apply, save, weights_hash
from studyctl.compress.walker import compress
from studyctl.errors import StageError
from studyctl.evaluate.batching import block_batch_tokens
from studyctl.evaluate.finished import NothingFinished
from studyctl.evaluate.reference import DenseReference, open_reference
from studyctl.evaluate.text import TextScores, score_text
from studyctl.evaluate.windows import Windows, cut_windows
from studyctl.files import StudyPaths, write_atomic
from studyctl.plan.planner import ids_path
from studyctl.run.elsewhere import compress_elsewhere
from studyctl.run.exporting import export_weights, refuse_other_weights
from studyctl.run.finished_steps import StepFile
from studyctl.run.protocol import Job, StageOrder
from studyctl.run.published import describe_weights, load_published
from studyctl.run.recorder import Recorder
from studyctl.sources.identity import (
    ModelIdentity,
    identify_model,
    identify_task,
    identify_text,
)
from studyctl.sources.ids_files import read_ids
from studyctl.sources.models import LoadedModel, load_model, restore_dense
from studyctl.sources.tokens import calibration_ids, perplexity_tokens, tokenized_text
from studyctl.spec.models import Calibration
from studyctl.store.parts import write_items


class Engine:
    """Holds the model that is loaded, so that trials of the same model need not load it again."""

    def __init__(self) -> None:
        self.loaded: LoadedModel | None = None
        self.weights_hash = ""
        self._changed: set[str] = set()
        self._before: list[StageOrder] = []
        self._after: list[StageOrder] = []

    # -- batches

    def batch_tokens(self, job: Job) -> int:
        """Return the tokens of a forward pass: those of the job, or fewer if an attempt before found that they are too many."""
        return min(job.batch_tokens, _found_batches(job).get(_bearer(job), job.batch_tokens))

    def halve_batch(self, job: Job) -> None:
        """Remember that this model bears half of that only on this device, and give back what the failure left."""
        batches = {**_found_batches(job), _bearer(job): self.batch_tokens(job) // 2}
        write_atomic(StudyPaths(job.root).batches, json.dumps(batches))
        if job.device.startswith("cuda"):
            torch.cuda.empty_cache()

    # -- load

    def load(self, job: Job, recorder: Recorder) -> None:
        """Have the job's model in memory, with its trial's weights if they are stored, and its dense references."""
        identity = identify_model(job.model, job.base)
        if identity.key != job.model_key:
            raise StageError(
                f"model `{job.model.id}` changed since the study was planned", hint="run the study again"
            )
        lacking = [
            order for order in _compared(job) if open_reference(self._reference_path(job, order)) is None
        ]
        # A checkpoint is loaded by `compress`, in the place of the model.
        if lacking or not job.is_checkpoint:
            self._load_dense(job, identity, recorder)
        self.weights_hash = ""
        self._before, self._after = [], []
        for order in lacking:
            self._reference(job, order, recorder)
        if not job.is_dense and not any(order.name == "compress" for order in job.stages):
            self._restore_weights(job)

    def _load_dense(self, job: Job, identity: ModelIdentity, recorder: Recorder) -> None:
        loaded = self.loaded
        wanted = (identity.key, job.dtype, job.device)
        if loaded is not None and (loaded.identity.key, loaded.dtype, loaded.device) == wanted:
            restore_dense(loaded, self._changed)
        else:
            self.loaded = loaded = None  # frees the old model before the new one comes
            self.loaded = load_model(
                identity,
                dtype=job.dtype,
                device=job.device,
                allow_pickle=job.model.allow_pickle,
                reporter=recorder,
            )
        self._changed = set()

    def _restore_weights(self, job: Job) -> None:
        """Apply the weights of an earlier attempt; without them, compress once more before anything else."""
        path = StudyPaths(job.root).trial_weights(job.weights_key)
        if path.exists():
            self._changed = changeable_modules(self._model())
            apply(self._model(), path)
            self.weights_hash = weights_hash(self._model())
            if self.weights_hash == job.weights_hash:
                return
        self._before = [StageOrder(name="compress", key=job.weights_key)]

    def orders(self, job: Job) -> Iterator[StageOrder]:
        """Yield the stages to run after ``load``: the job's, and what turns out to be needed beside them; an export last."""
        yield from self._before
        yield from (order for order in job.stages if order.name != "export")
        yield from (order for order in self._after if order.name != "export")  # known once `compress` is done
        yield from (order for order in (*job.stages, *self._after) if order.name == "export")

    def forget_weights(self, job: Job) -> None:
        """Delete the stored weights of a trial that is done; an export leaves those that it found."""
        if job.export_to is None or self._before:
            paths = StudyPaths(job.root)
            paths.trial_weights(job.weights_key).unlink(missing_ok=True)
            shutil.rmtree(paths.packed_weights(job.weights_key), ignore_errors=True)

    def _model(self) -> torch.nn.Module:
        if self.loaded is None:
            raise StageError("no model is loaded")
        return self.loaded.model

    # -- compress

    def compress(self, job: Job, recorder: Recorder) -> dict[str, object]:
        """Compress the model in place, store the weights, and return what is known of them."""
        if job.is_checkpoint:
            return self._take_checkpoint(job, recorder)
        assert self.loaded is not None
        restore_dense(self.loaded, self._changed)
        self._changed = changeable_modules(self.loaded.model)  # known before the first is written
        ids = self._calibration_ids(job, job.calibration, recorder) if job.calibration is not None else None
        paths = StudyPaths(job.root)
        finished = FinishedBlocks(paths.finished_blocks(job.weights_key))
        measured: dict[str, object] = {}
        if job.backend == OWN:
            done = compress(
                self._model(),
                job.method_settings(),
                torch.from_numpy(ids) if ids is not None else None,
                batch_tokens=block_batch_tokens(job.device, self.batch_tokens(job)),
                reporter=recorder,
                finished=finished,
            )
        else:
            done, outcome = compress_elsewhere(job, self.loaded, ids, recorder)
            measured = {"seconds": outcome.seconds, "peak_memory_bytes": outcome.peak_memory_bytes}
        path = paths.trial_weights(job.weights_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, done)
        finished.clear()
        self._note_weights(job, recorder)
        return {"bits_per_weight": done.bits_per_weight, "sparsity": done.sparsity, **measured}

    def _note_weights(self, job: Job, recorder: Recorder) -> None:
        """Name the weights that were made, and ask for every evaluation if stored results belong to others."""
        self.weights_hash = weights_hash(self._model())
        refuse_other_weights(job, self.weights_hash)
        if job.weights_hash not in (None, self.weights_hash):
            recorder.warning(
                "the weights differ from those of the stored results: every evaluation runs again"
            )
            self._after = [order for order in job.evaluations if order not in job.stages]

    def _take_checkpoint(self, job: Job, recorder: Recorder) -> dict[str, object]:
        """Load a published checkpoint in the place of the model, and return what is known of it."""
        self.loaded = None  # frees the model before the checkpoint comes
        self.loaded = load_published(job, recorder)
        self._changed = changeable_modules(self.loaded.model)
        self._note_weights(job, recorder)
        return describe_weights(self.loaded, recorder)

    def _calibration_ids(self, job: Job, calibration: Calibration, recorder: Recorder) -> np.ndarray:
        assert self.loaded is not None
        if calibration.ids is not None:
            ids: np.ndarray = read_ids(ids_path(calibration, job.model, job.base))
            return ids.astype(np.int64)
        texts = [
            identify_text(
                calibration.source, job.text.get(calibration.source), "calibration", language, job.base
            )
            for language in calibration.languages
        ]
        return calibration_ids(
            calibration, texts, self.loaded.tokenizer, seed=job.seed or 0, reporter=recorder
        )

    # -- export

    def export(self, job: Job, recorder: Recorder) -> dict[str, object]:
        """Write the weights as a folder that transformers and vLLM load, and return what is known of it."""
        assert self.loaded is not None
        return export_weights(job, self.loaded, self.weights_hash, recorder)

    # -- evaluate

    def perplexity(self, job: Job, order: StageOrder, recorder: Recorder) -> dict[str, object]:
        """Measure perplexity, and fidelity where the spec asks for it, in one language."""
        fidelity = job.evaluation.fidelity
        windows = self._windows(job, order, recorder)
        reference = None
        if fidelity is not None and not job.is_dense:
            reference = self._reference(job, order, recorder)
        keep = self._reference_path(job, order) if fidelity is not None and job.is_dense else None
        self._warn_if_short(job, order, windows, recorder)
        with self._steps(job, order) as finished:
            scores = score_text(
                self._model(),
                windows,
                reference=reference,
                keep=keep,
                metrics=fidelity.metrics if fidelity else (),
                batch_tokens=self.batch_tokens(job),
                reporter=recorder,
                finished=finished,
            )
        _record_scores(scores, order.subject, windows, recorder)
        return {"seconds_before": finished.seconds_before}

    def _steps(self, job: Job, order: StageOrder) -> StepFile:
        # The dense model has no hash of its weights; its key names the files that they come from.
        weights = f"{job.weights_key} {self.weights_hash} {job.device.partition(':')[0]}"
        return StepFile(StudyPaths(job.root).finished_steps(job.trial, order.key), weights)

    def forget_steps(self, job: Job, order: StageOrder) -> None:
        """Delete what would be needed to go on with a stage that is finished now."""
        StudyPaths(job.root).finished_steps(job.trial, order.key).unlink(missing_ok=True)

    def _warn_if_short(self, job: Job, order: StageOrder, windows: Windows, recorder: Recorder) -> None:
        assert job.evaluation.perplexity is not None
        wanted = job.evaluation.perplexity.windows
        if len(windows.ids) < wanted:
            recorder.warning(
                f"the text in {order.subject} has {len(windows.ids)} windows, {wanted} were asked for"
            )

    def _windows(self, job: Job, order: StageOrder, recorder: Recorder) -> Windows:
        assert self.loaded is not None
        assert job.evaluation.perplexity is not None
        protocol = job.evaluation.perplexity
        source = job.text.get(protocol.source)
        identity = identify_text(protocol.source, source, "perplexity", order.subject, job.base)
        needed = perplexity_tokens(protocol)
        text = tokenized_text(identity, self.loaded.tokenizer, needed=needed, reporter=recorder)
        bos = self.loaded.bos_for(job.model.bos)
        return cut_windows(text, protocol.sequence_length, protocol.windows, bos)

    def _reference_path(self, job: Job, order: StageOrder) -> Path:
        return StudyPaths(job.root).dense_reference(job.reference_key(order.key))

    def _reference(self, job: Job, order: StageOrder, recorder: Recorder) -> DenseReference | None:
        """Return the dense model's hidden states; compute them if they are not there or torn."""
        if job.evaluation.fidelity is None:
            return None
        path = self._reference_path(job, order)
        found = open_reference(path)
        if found is not None:
            return found
        if self._changed:
            # Only possible when the file was lost after `load`: the weights in memory are no longer dense.
            raise StageError(f"the dense reference of {order.subject} was lost", hint="run the study again")
        recorder.progress(0, 1, "reference", f"dense reference {order.subject}")
        windows = self._windows(job, order, recorder)
        batch = self.batch_tokens(job)
        score_text(
            self._model(),
            windows,
            reference=None,
            keep=path,
            metrics=(),
            batch_tokens=batch,
            reporter=recorder,
            finished=NothingFinished(),
        )
        return open_reference(path)

    def task(self, job: Job, order: StageOrder, recorder: Recorder) -> dict[str, object]:
        """Score one task; its item rows go to a part that the journal then names."""
        # lm-eval and datasets are seconds of import and 230 MB that compressing, and studies without tasks, do not need.
        from studyctl.evaluate.tasks import TaskRequest, score_task

        assert self.loaded is not None
        assert job.evaluation.tasks is not None
        tasks = job.evaluation.tasks
        identity = identify_task(order.subject, tasks, job.base)
        request = TaskRequest(
            name=order.subject,
            yaml=identity.yaml,
            test=identity.test,
            fewshot=identity.fewshot,
            shots=tasks.shots,
            limit=tasks.limit,
            chat_template=job.model.chat_template,
            bos=job.model.bos,
            revision=identity.commit,
        )
        with self._steps(job, order) as finished:
            scores = score_task(
                self._model(),
                self.loaded.tokenizer,
                request,
                batch_tokens=self.batch_tokens(job),
                reporter=recorder,
                finished=finished,
            )
        for metric in scores.metrics:
            recorder.record("task", task=order.subject, **asdict(metric))
        part = write_items(StudyPaths(job.root), job.trial, job.attempt, order.subject, scores.items)
        recorder.record("item", task=order.subject, part=part.name, rows=scores.items.num_rows)
        return {"seconds_before": finished.seconds_before}


def _bearer(job: Job) -> str:
    """Return what a number of tokens is too many for."""
    return f"{job.model_key} {job.dtype} {job.device.partition(':')[0]} {platform.node()}"


def _found_batches(job: Job) -> dict[str, int]:
    """Return the tokens of a forward pass that were found by running out of memory."""
    try:
        found: dict[str, int] = json.loads(StudyPaths(job.root).batches.read_text())
    except (FileNotFoundError, ValueError):  # none yet, or deleted while it was read
        return {}
    return found


def _compared(job: Job) -> list[StageOrder]:
    """Return the evaluations that need the dense model's hidden states."""
    return [] if job.is_dense or job.evaluation.fidelity is None else _text_orders(job, job.stages)


def _text_orders(job: Job, orders: list[StageOrder]) -> list[StageOrder]:
    return [order for order in orders if order.name.startswith("perplexity:")]


def _record_scores(scores: TextScores, language: str, windows: Windows, recorder: Recorder) -> None:
    for index, nll in enumerate(scores.window_nll):
        tokens = windows.ids.shape[1] - 1
        recorder.record("window", language=language, window=index, nll_nats=float(nll), tokens=tokens)
    recorder.record(
        "perplexity",
        language=language,
        perplexity=scores.perplexity,
        bits_per_byte=scores.bits_per_byte,
        nll_nats=scores.nll_nats,
        tokens=scores.tokens,
        bytes=scores.bytes,
        sequence_length=windows.ids.shape[1],
        bos=windows.bos,
    )
    if (fidelity := scores.fidelity) is not None:
        recorder.record(
            "fidelity",
            language=language,
            kl_nats=fidelity.kl_nats,
            kl_p95_nats=fidelity.kl_p95_nats,
            top1=fidelity.top1,
            snr_db=fidelity.snr_db,
            tokens=fidelity.tokens,
        )

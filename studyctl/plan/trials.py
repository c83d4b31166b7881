"""From variants to trials, with the keys that address their results.

A result is addressed by two keys: ``weights_key`` covers everything that determines a trial's weights, and a step's key
covers everything else that determines that evaluation (except the windows of a text, which are stored beside it). Both
are hashes of hashed parts: a study of 100,000 trials hashes each model, variant and calibration once, and all trials of
a model share its evaluations.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from studyctl.backends import OWN
from studyctl.backends.catalog import ADAPTER_VERSION, BACKENDS
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.methods import METHODS, Checkpoint, Dense, Gguf, method_of
from studyctl.contract.steps import Step, StepKind
from studyctl.files import digest
from studyctl.plan.variants import Variant
from studyctl.spec.models import Calibration, Model

LONGEST_NAME = 180
"""Files are called like a trial, with a task's name and a suffix, and file systems allow 255 bytes."""
WALKER_VERSION = 4
"""Rises when a change to the walker gives other weights, or other errors of layers, for every method."""


class Evaluation(NamedTuple):
    """One evaluation, or the export, that every trial of a model gets."""

    step: Step
    parts: Mapping[str, object]
    """What its key was made of; shows why the step runs again."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model of the spec, looked up, with the evaluations of its trials."""

    index: int
    spec: Model
    identity: ModelIdentity | None
    """None if it has problems, which are in the plan."""
    dtype: str
    evaluations: tuple[Evaluation, ...] = ()
    calibrations: Mapping[Calibration, CalibrationData | None] = field(default_factory=dict)
    """The text or token ids of each calibration; None if it has problems, which are in the plan."""
    checkpoints: Mapping[Checkpoint, ModelIdentity] = field(default_factory=dict)
    """Published checkpoints that are compared with this model; without those that have problems."""

    @property
    def key(self) -> str | None:
        """Return the hash of the model's key and dtype."""
        key = self.identity.key if self.identity is not None else None
        return digest([key, self.dtype]) if key is not None else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps of all evaluations."""
        return tuple(evaluation.step for evaluation in self.evaluations)


class Trial(NamedTuple):
    """One model × one variant (× one seed): the unit of scheduling."""

    id: str
    model: PlannedModel
    variant: Variant
    seed: int | None
    """None where nothing is drawn at random."""
    weights_key: str | None
    """None if something that it depends on could not be looked up."""

    @property
    def is_dense(self) -> bool:
        """Return whether this is the uncompressed model."""
        return isinstance(self.variant.settings, Dense)

    @property
    def checkpoint(self) -> ModelIdentity | None:
        """Return the published checkpoint whose weights this trial measures; None for any other trial."""
        settings = self.variant.settings
        return self.model.checkpoints.get(settings) if isinstance(settings, Checkpoint) else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps in the order in which they run, without ``load``, which has no result."""
        if self.is_dense:
            return self.model.steps
        return (Step(StepKind.COMPRESS, key=self.weights_key), *self.model.steps)

    def parts(self) -> dict[str, object]:
        """Return what ``weights_key`` was made of; shows why a trial runs again."""
        calibration = self.variant.calibration
        text = _calibration_key(self.model.calibrations[calibration]) if calibration else None
        return {
            "model": self.model.identity.key if self.model.identity else None,
            "dtype": self.model.dtype,
            "settings": self.variant.settings.model_dump(mode="json"),
            "calibration": calibration.model_dump(mode="json") if calibration else None,
            "calibration text": text,
            "checkpoint": self.checkpoint.key if self.checkpoint else None,
            "seed": self.seed,
            "code": _version(self.variant),
        }


def _version(variant: Variant) -> str:
    if variant.backend != OWN:
        return f"{variant.method} of {variant.backend} {BACKENDS[variant.backend].version}, adapter {ADAPTER_VERSION}"
    version = f"{variant.method} {method_of(variant.settings).version}"
    if isinstance(variant.settings, Gguf):
        version += f", llama.cpp {llama_build()}"
    return version if isinstance(variant.settings, Checkpoint) else f"{version}, walker {WALKER_VERSION}"


def llama_build() -> str | None:
    """Return the hash of llama.cpp's library that is here; None if there is none."""
    from studyctl.llama import build  # only one method needs the library, and numpy

    return build()


Draft = tuple[PlannedModel, Variant, int | None, str | None]
"""A trial without its name: model, variant, seed, weights key."""


def make_trials(
    models: Sequence[PlannedModel], variants: Sequence[Variant], seeds: Sequence[int]
) -> list[Trial]:
    """Return every trial of the study, the dense one of each model first."""
    variant_keys = [_variant_key(variant) for variant in variants]
    drafts: list[Draft] = []
    for model in models:
        model_key = model.key
        texts = {calibration: _calibration_key(data) for calibration, data in model.calibrations.items()}
        for variant, variant_key in zip(variants, variant_keys, strict=True):
            if not variant.applies_to(model.spec.id):
                continue
            calibration = variant.calibration
            if isinstance(variant.settings, Checkpoint):
                checkpoint = model.checkpoints.get(variant.settings)
                source = checkpoint.key if checkpoint else None
            else:
                source = texts[calibration] if calibration else ""
            if isinstance(variant.settings, Gguf) and llama_build() is None:
                source = None
            draws = variant.settings.draws or (calibration is not None and calibration.ids is None)
            for seed in seeds if draws else [None]:
                key = None
                if model_key is not None and source is not None:
                    parts = f"{model_key}|{variant_key}|{source}|{seed}"
                    key = hashlib.blake2b(parts.encode(), digest_size=10).hexdigest()
                drafts.append((model, variant, seed, key))
    names = _trial_names(drafts, several_seeds=len(seeds) > 1)
    return [Trial(name, *draft) for name, draft in zip(names, drafts, strict=True)]


def _variant_key(variant: Variant) -> str:
    """Return the hash of everything that determines a variant's weights, without model, texts and seed."""
    if isinstance(variant.settings, Dense):
        return digest(["dense", METHODS["dense"].version])
    calibration, windows = variant.calibration, None
    if calibration is not None and calibration.ids is None:  # else the ids determine everything
        windows = calibration.model_dump(mode="json", exclude={"source", "ids"})
    return digest([variant.settings.model_dump(mode="json"), variant.backend, windows, _version(variant)])


def _calibration_key(calibration: CalibrationData | None) -> str | None:
    """Return the hash of a calibration's text or ids; None if it could not be looked up."""
    if calibration is None:
        return None
    if calibration.ids is not None:
        return calibration.ids.key
    keys = [text.key for text in calibration.texts]
    return digest(keys) if None not in keys else None


def _trial_names(drafts: Sequence[Draft], *, several_seeds: bool) -> list[str]:
    """Return a readable name for each draft, with a short hash where two would collide or one is cut."""

    @cache  # many trials share a model or a variant
    def slug(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "_", text)

    names = [
        f"{slug(model.spec.short_name)}-{slug(variant.name)}"
        + (f"-s{seed}" if several_seeds and seed is not None else "")
        for model, variant, seed, _ in drafts
    ]
    # On case-insensitive file systems, names that differ only in case are the same file.
    counts = Counter(name.lower() for name in names)
    return [
        name
        if counts[name.lower()] == 1 and len(name) <= LONGEST_NAME
        else f"{name[:LONGEST_NAME]}-{digest([model.spec.id, variant.name, seed])[:6]}"
        for name, (model, variant, seed, _) in zip(names, drafts, strict=True)
    ]

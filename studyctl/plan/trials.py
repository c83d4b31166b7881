"""From variants to trials, with the keys that address their results.

A result is addressed by two keys: ``weights_key`` names everything that determines a trial's weights, and the key of a
step names everything else that determines that one evaluation; of a text, together with the windows. Both are hashes of hashed parts, so that a study of 100,000
trials hashes each model, variant and calibration once, and the evaluations of a trial are those that all trials of its
model share.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from studyctl.backends import OWN
from studyctl.backends.catalog import ADAPTER_VERSION, BACKENDS
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.methods import METHODS, Checkpoint, Dense, method_of
from studyctl.contract.steps import Step, StepKind
from studyctl.files import digest
from studyctl.plan.variants import Variant
from studyctl.spec.models import Calibration, Model

WALKER_VERSION = 3
"""Rises when the walker gives every method other weights, or tells other errors of them."""


class Evaluation(NamedTuple):
    """One evaluation, or the export, that every trial of a model gets."""

    step: Step
    parts: Mapping[str, object]
    """What its key was made of: tells why it runs again."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model of the spec, looked up, with the evaluations of its trials."""

    index: int
    spec: Model
    identity: ModelIdentity | None
    """None when it has problems; they are in the plan."""
    dtype: str
    evaluations: tuple[Evaluation, ...] = ()
    calibrations: Mapping[Calibration, CalibrationData | None] = field(default_factory=dict)
    """What each calibration was found to be; None: it has problems, which are in the plan."""
    checkpoints: Mapping[Checkpoint, ModelIdentity] = field(default_factory=dict)
    """Published checkpoints that are compared with this model, looked up; without those that have problems."""

    @property
    def key(self) -> str | None:
        """Return the hash of the weights' identity and dtype."""
        known = self.identity is not None and self.identity.key is not None
        return digest([self.identity.key, self.dtype]) if known and self.identity else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return all evaluations."""
        return tuple(evaluation.step for evaluation in self.evaluations)


class Trial(NamedTuple):
    """One model × one variant (× one seed): the unit of scheduling."""

    id: str
    model: PlannedModel
    variant: Variant
    seed: int | None
    """None where nothing is drawn at random."""
    weights_key: str | None
    """None when what it depends on could not be looked up."""

    @property
    def is_dense(self) -> bool:
        """Return whether this is the uncompressed model."""
        return isinstance(self.variant.settings, Dense)

    @property
    def checkpoint(self) -> ModelIdentity | None:
        """Return what the published checkpoint is whose weights this trial measures; None for any other."""
        settings = self.variant.settings
        return self.model.checkpoints.get(settings) if isinstance(settings, Checkpoint) else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps in the order in which they run; ``load`` is no result and not among them."""
        if self.is_dense:
            return self.model.steps
        return (Step(StepKind.COMPRESS, key=self.weights_key), *self.model.steps)

    def parts(self) -> dict[str, object]:
        """Return what ``weights_key`` was made of: tells why a trial runs again."""
        calibration = self.variant.calibration
        return {
            "model": self.model.identity.key if self.model.identity else None,
            "dtype": self.model.dtype,
            "settings": self.variant.settings.model_dump(mode="json"),
            "calibration": calibration.model_dump(mode="json") if calibration else None,
            "calibration text": calibration_key(self.model.calibrations[calibration])
            if calibration
            else None,
            "checkpoint": self.checkpoint.key if self.checkpoint else None,
            "seed": self.seed,
            "code": _version(self.variant),
        }


def _version(variant: Variant) -> str:
    if variant.backend != OWN:
        return f"{variant.method} of {variant.backend} {BACKENDS[variant.backend].version}, adapter {ADAPTER_VERSION}"
    if isinstance(variant.settings, Checkpoint):
        return f"{variant.method} {method_of(variant.settings).version}"
    return f"{variant.method} {method_of(variant.settings).version}, walker {WALKER_VERSION}"


def _join(*parts: str) -> str:
    return hashlib.blake2b("|".join(parts).encode(), digest_size=10).hexdigest()


def make_trials(
    models: Sequence[PlannedModel], variants: Sequence[Variant], seeds: Sequence[int]
) -> list[Trial]:
    """Return every trial of the study, the dense one of each model first."""
    hashed = [_variant_part(variant) for variant in variants]
    drafts: list[tuple[PlannedModel, Variant, int | None, str | None]] = []
    for model in models:
        model_part = model.key
        texts = {calibration: calibration_key(data) for calibration, data in model.calibrations.items()}
        for variant, part in zip(variants, hashed, strict=True):
            if not variant.applies_to(model.spec.id):
                continue
            text = _looked_up_part(model, variant, texts)
            for seed in seeds if _draws(variant) else [None]:
                key = None if model_part is None or text is None else _join(model_part, part, text, str(seed))
                drafts.append((model, variant, seed, key))
    ids = _trial_ids(drafts, several_seeds=len(seeds) > 1)
    return [Trial(name, *draft) for name, draft in zip(ids, drafts, strict=True)]


def _draws(variant: Variant) -> bool:
    return variant.calibration is not None and variant.calibration.ids is None


def _variant_part(variant: Variant) -> str:
    if isinstance(variant.settings, Dense):
        return digest(["dense", METHODS["dense"].version])
    calibration = variant.calibration
    windows = calibration.model_dump(mode="json", exclude={"source", "ids"}) if calibration else None
    if calibration and calibration.ids is not None:
        windows = None  # the ids say it all
    return digest([variant.settings.model_dump(mode="json"), variant.backend, windows, _version(variant)])


def _looked_up_part(
    model: PlannedModel, variant: Variant, texts: Mapping[Calibration, str | None]
) -> str | None:
    """Return the key of what a variant needs beside the model; None if it could not be looked up."""
    if isinstance(variant.settings, Checkpoint):
        found = model.checkpoints.get(variant.settings)
        return found.key if found else None
    return texts[variant.calibration] if variant.calibration else ""


def calibration_key(calibration: CalibrationData | None) -> str | None:
    """Return the hash of a calibration's text or ids; None if it could not be looked up."""
    if calibration is None:
        return None
    if calibration.ids is not None:
        return calibration.ids.key
    keys = [text.key for text in calibration.texts]
    return digest(keys) if None not in keys else None


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _trial_ids(
    drafts: Iterable[tuple[PlannedModel, Variant, int | None, str | None]], *, several_seeds: bool
) -> list[str]:
    """Return a readable id for each draft; a short hash of model and variant where two would collide."""
    drafts = list(drafts)
    slug = cache(_slug)  # many trials share a model or a variant
    names = [
        f"{slug(model.spec.short_name)}-{slug(variant.name)}"
        + (f"-s{seed}" if several_seeds and seed is not None else "")
        for model, variant, seed, _ in drafts
    ]
    # Case-insensitive file systems would take two ids that differ in case for one file.
    counts = Counter(name.lower() for name in names)
    return [
        name if counts[name.lower()] == 1 else f"{name}-{digest([model.spec.id, variant.name, seed])[:6]}"
        for name, (model, variant, seed, _) in zip(names, drafts, strict=True)
    ]

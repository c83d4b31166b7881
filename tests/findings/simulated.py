"""Studies drawn at random, of which the truth is known: for the coverage of intervals and the error of verdicts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from studyctl.contract.hypotheses import Level, Measure
from studyctl.findings.cells import Side, TextCell, difference
from studyctl.findings.estimates import Cells, estimate

Reals = NDArray[np.float64]
LANGUAGES = 7
LEVELS = tuple(Level)


class Components(NamedTuple):
    """Standard deviations of a difference: between models, between languages, between cells, and between windows of a cell."""

    model: float
    language: float
    cell: float
    window: float


COMPONENTS = (Components(0.3, 0.6, 0.3, 1.0), Components(5.0, 0.6, 4.5, 1.0))
"""Like those of real studies: of models that are alike, and of models of very different sizes."""
NULL = {
    Level.WINDOWS: Components(0, 0, 0, 1),
    Level.LANGUAGES: Components(0, 0.6, 0.3, 1),
    Level.MODELS: Components(0.3, 0, 0.3, 1),
    Level.CROSSED: COMPONENTS[0],
}
"""With these there is no difference at a level, whichever models and languages are drawn below it."""
SHARED_DIFFICULTY, OWN_DIFFICULTY = 0.5, 0.3
"""Standard deviations of the logarithm of a window's KL: what both sides share, and each side's own."""


class Drawn(NamedTuple):
    """A study, and the truth that an interval of each level is about; the mean of all studies is 0."""

    cells: Cells
    truth: dict[Level, float]


class Shape(NamedTuple):
    """How large a study is."""

    models: int
    windows: int
    """Of each cell."""
    languages: int = LANGUAGES


def studies(
    draw: np.random.Generator, count: int, shape: Shape, components: Components, *, heavy_tails: bool = False
) -> Iterator[Drawn]:
    """Yield studies whose windows are normal, or Student's t with three degrees of freedom, scaled."""
    for _ in range(count):
        effects = _effects(draw, shape, components)
        size = (*effects.cells.shape, shape.windows)
        noise = draw.standard_t(3, size) / np.sqrt(3) if heavy_tails else draw.normal(size=size)
        windows = effects.cells[..., None] + components.window * noise
        units = np.full(effects.cells.shape, shape.windows)
        yield Drawn(
            Cells(windows.mean(axis=-1), windows.var(axis=-1, ddof=1) / shape.windows, units), effects.truth
        )


def kl_studies(
    draw: np.random.Generator, count: int, shape: Shape, components: Components
) -> Iterator[Drawn]:
    """Yield studies of a ratio of KLs, which are log-normal over windows: hard windows are hard for both sides."""
    places = {"left": 0, "right": 1}
    sides = [Side((("left",),)), Side((("right",),))]
    tokens = np.full(shape.windows, 100.0)
    documents = np.arange(shape.windows)
    for _ in range(count):
        effects = _effects(draw, shape, components)
        size = (*effects.cells.shape, 2, shape.windows)
        logs = OWN_DIFFICULTY * draw.normal(size=size)
        logs += SHARED_DIFFICULTY * draw.normal(size=(*size[:2], 1, shape.windows))
        logs[:, :, 0] += effects.cells[..., None]
        differences = [
            difference(
                TextCell(places, {"nll_nats": kl, "kl_nats": kl}, {"tokens": tokens}, documents).sides(
                    Measure.KL_RATIO, sides
                ),
                np.array([1.0, -1.0]),
            )
            for kl in np.exp(logs).reshape(-1, 2, shape.windows)
        ]
        columns = np.array([one[:3] for one in differences]).T.reshape(3, *effects.cells.shape)
        yield Drawn(Cells(columns[0], columns[1], columns[2].astype(np.int64)), effects.truth)


class _Effects(NamedTuple):
    cells: Reals
    """True difference of each model and language."""
    truth: dict[Level, float]


def _effects(draw: np.random.Generator, shape: Shape, components: Components) -> _Effects:
    models = components.model * draw.normal(size=(shape.models, 1))
    languages = components.language * draw.normal(size=(1, shape.languages))
    cells = models + languages + components.cell * draw.normal(size=(shape.models, shape.languages))
    truth = {
        Level.WINDOWS: float(cells.mean()),
        Level.LANGUAGES: float(models.mean()),  # these models, in all languages
        Level.MODELS: float(languages.mean()),
        Level.CROSSED: 0.0,
    }
    return _Effects(cells, truth)


def coverage(drawn: Iterator[Drawn]) -> dict[Level, float]:
    """Return the share of studies whose interval of each level holds its truth."""
    counts, total = dict.fromkeys(LEVELS, 0), 0
    for cells, truth in drawn:
        total += 1
        for level in LEVELS:
            low, high = estimate(cells, level).ends
            counts[level] += low <= truth[level] <= high
    return {level: count / total for level, count in counts.items()}

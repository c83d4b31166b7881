"""Backends against each other: what each of them made of a setting, beside what ours made of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from studyctl.report.layout import change, fixed, gib, ratio
from studyctl.store.comparison import Agreement
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.scale import GLYPHS, Scale
from studyctl_tui.compare.sheets import Cell, Sheet
from studyctl_tui.shared.topbar import GLYPHS as STATES

_RISING = Scale((1.02, 1.1, 1.25, 2.0))
_FALLING = Scale((0.98, 0.9, 0.8, 0.5))
_ALONE = 'no second backend here: backend = ["studyctl", "autoawq"] asks for one'


@dataclass(frozen=True, slots=True)
class _Column:
    """A figure of a backend's trial."""

    header: str
    figure: str
    """Attribute of the row."""
    show: Callable[[Any], Text]
    meaning: str
    scale: Scale | None = None
    """How bad it looks for ours."""


def _two(value: float | None) -> Text:
    return fixed(value, 2)


_COLUMNS = (
    _Column("KL", "kl_nats", ratio, "nats a token to dense, mean over the languages"),
    _Column("KL ratio", "kl_ratio", _two, "studyctl's KL / this one's: below 1 studyctl's is nearer to dense", _RISING),
    _Column("ppl ratio", "ppl_ratio", ratio, "perplexity / that of dense, geometric mean over the languages"),
    _Column("bits/w", "bits_per_weight", _two, "bits a weight, scales, zeros and masks included"),
    _Column("time s", "compress_seconds", lambda value: fixed(value, 1), "seconds to compress it"),
    _Column("speed-up", "speedup", _two, "time of this one / studyctl's: above 1 studyctl is faster", _FALLING),
    _Column("GiB", "peak_memory_bytes", gib, "highest memory until it was compressed"),
    _Column("GiB ratio", "memory_ratio", _two, "studyctl's memory / this one's: below 1 studyctl needs less", _RISING),
)  # fmt: skip
_WIDE_COLUMNS = (
    _Column("Δ acc", "acc_change", change, "change of the mean accuracy against dense"),
    _Column("sparsity", "sparsity", _two, "fraction of the weights that is zero"),
    _Column("state", "state", Text, "how far the trial is"),
)


class AgreementSheet(Sheet):
    """Backends by figures, under a heading for each setting."""

    least_width = 7

    def __init__(self, comparison: Comparison, lines: Iterable[Line], *, wide: bool) -> None:
        """Lay out the rows of the chosen trials; the settings keep the order of the lines."""
        rows = comparison.agreement
        self._of = {row.trial_id: row for row in rows}
        self._columns = {one.header: one for one in (*_COLUMNS, *(_WIDE_COLUMNS if wide else ()))}
        super().__init__(self._columns, _by_setting(rows, tuple(lines)))
        self.title = "by backend"
        self.legend = f"{GLYPHS[0]} ours equal or better  {GLYPHS[1:-1]} worse  {GLYPHS[-1]} by twice"
        self.empty = "none of these settings is measured with two backends yet" if rows else _ALONE

    def has_figures(self, line: Line) -> bool:
        """Show all: what one of the backends could not do is news."""
        return True

    def cell(self, line: Line, column: str) -> Cell:
        """Return a figure; a ratio has a step for how ours looks beside it."""
        row, shown = self._of[line.key], self._columns[column]
        value = getattr(row, shown.figure)
        step = None if row.ours or value is None or shown.scale is None else shown.scale.step(value)
        return Cell(shown.show(value).plain, step)

    def says(self, line: Line, column: str | None) -> str:
        """Return what a figure means, or the figures of a backend in a row."""
        row = self._of.get(line.key)
        if row is None:
            return line.label
        name = row.variant if row.state == "done" else f"{row.variant} ({row.state})"
        if column is None:
            return f"{name} by {row.maker}: {', '.join(_told(row))}"
        shown = self._columns[column]
        return f"{name} · {column} {self.cell(line, column).text}: {shown.meaning}"

    def copied(self, line: Line, column: str | None) -> str:
        """Return the text of a cell; of a line with the whole name of its variant."""
        text = super().copied(line, column)
        return text if column is not None else "\t".join([self._of[line.key].variant, text])


def _by_setting(rows: Iterable[Agreement], lines: tuple[Line, ...]) -> Iterator[Line]:
    """Yield a heading for each setting of which something is measured, and its backends, ours first."""
    chosen = {line.key: line for line in lines if line.key}
    place = {key: number for number, key in enumerate(chosen)}
    settings: dict[tuple[str, int | None], list[Agreement]] = {}
    for row in rows:
        if row.trial_id in chosen:
            settings.setdefault((row.setting, row.seed), []).append(row)
    seeds = Counter(setting for setting, _ in settings)
    for (setting, seed), members in sorted(
        settings.items(), key=lambda item: min(place[row.trial_id] for row in item[1])
    ):
        if any(row.measured for row in members):
            yield Line("", setting if seeds[setting] == 1 else f"{setting} seed {seed}")
            for row in members:
                mark = "" if row.state == "done" else f"{STATES[row.state]} "
                yield Line(row.trial_id, mark + row.maker, chosen[row.trial_id].trial)


def _told(row: Agreement) -> Iterator[str]:
    yield f"KL {fixed(row.kl_nats, 4).plain} nats"
    yield f"ppl ratio {ratio(row.ppl_ratio).plain}"
    yield f"{_two(row.bits_per_weight).plain} bits a weight"
    yield f"change of acc {change(row.acc_change).plain}"
    yield f"compressed in {fixed(row.compress_seconds, 1).plain} s with {gib(row.peak_memory_bytes).plain} GiB"

"""The results of each backend for a setting, compared with studyctl's."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from rich.text import Text

from studyctl.report.layout import change, fixed, gib, ratio
from studyctl.store.comparison import Agreement
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.sheets import GLYPHS, Cell, Measure, Scale, Sheet
from studyctl_tui.shared.topbar import GLYPHS as STATES

_RISING = Scale((1.02, 1.1, 1.25, 2.0))
_FALLING = Scale((0.98, 0.9, 0.8, 0.5))
_ONE_BACKEND = 'no second backend here: backend = ["studyctl", "autoawq"] asks for one'

_two = partial(fixed, decimals=2)
_MEASURES = (
    Measure("KL", "kl_nats", ratio, meaning="nats a token to dense, mean over the languages"),
    Measure("KL ratio", "kl_ratio", _two, _RISING, meaning="studyctl's KL / this one's: below 1 studyctl's is nearer to dense"),
    Measure("ppl ratio", "ppl_ratio", ratio, meaning="perplexity / that of dense, geometric mean over the languages"),
    Measure("bits/w", "bits_per_weight", _two, meaning="bits a weight, scales, zero points and masks included"),
    Measure("time s", "compress_seconds", lambda value: fixed(value, 1), meaning="seconds to compress it"),
    Measure("speed-up", "speedup", _two, _FALLING, meaning="time of this one / studyctl's: above 1 studyctl is faster"),
    Measure("GiB", "peak_memory_bytes", gib, meaning="highest memory until it was compressed"),
    Measure("GiB ratio", "memory_ratio", _two, _RISING, meaning="studyctl's memory / this one's: below 1 studyctl needs less"),
)  # fmt: skip
_WIDE_MEASURES = (
    Measure("Δ acc", "acc_change", change, meaning="change of the mean accuracy against dense"),
    Measure("sparsity", "sparsity", _two, meaning="fraction of the weights that is zero"),
    Measure("state", "state", Text, meaning="how far the trial is"),
)


class AgreementSheet(Sheet):
    """Backends by figures, under a heading for each setting; trials that failed are shown too."""

    title = "by backend"
    legend = f"{GLYPHS[0]} ours equal or better  {GLYPHS[1:-1]} worse  {GLYPHS[-1]} by twice"
    least_width = 7

    def __init__(self, comparison: Comparison, lines: Sequence[Line], *, wide: bool) -> None:
        """Lay out the rows of the chosen trials; the settings keep the order of the lines."""
        rows = comparison.agreement
        self._of = {row.trial_id: row for row in rows}
        self._measures = {
            measure.name: measure for measure in (*_MEASURES, *(_WIDE_MEASURES if wide else ()))
        }
        super().__init__(self._measures, _by_setting(rows, {line.key: line for line in lines}))
        self.empty = "none of these settings is measured with two backends yet" if rows else _ONE_BACKEND

    def cell(self, line: Line, column: str) -> Cell:
        """Return a figure; the step of a ratio is how bad studyctl looks compared with this backend."""
        row, measure = self._of[line.key], self._measures[column]
        cell = measure.cell(measure.of(row))
        return Cell(cell.text) if row.ours else cell

    def says(self, line: Line, column: str | None) -> str:
        """Return the meaning of a figure, or all figures of a backend."""
        row = self._of.get(line.key)
        if row is None:
            return line.label
        name = row.variant if row.state == "done" else f"{row.variant} ({row.state})"
        if column is not None:
            return f"{name} · {column} {self.cell(line, column).text}: {self._measures[column].meaning}"
        return (
            f"{name} by {row.maker}: KL {fixed(row.kl_nats, 4)} nats, ppl ratio {ratio(row.ppl_ratio)}, "
            f"{_two(row.bits_per_weight)} bits a weight, change of acc {change(row.acc_change)}, "
            f"compressed in {fixed(row.compress_seconds, 1)} s with {gib(row.peak_memory_bytes)} GiB"
        )

    def copied(self, line: Line, column: str | None) -> str:
        """Return the text of a cell; of a line with the whole name of its variant."""
        text = super().copied(line, column)
        return text if column is not None else "\t".join([self._of[line.key].variant, text])


def _by_setting(rows: Iterable[Agreement], lines: dict[str, Line]) -> Iterator[Line]:
    """Yield a heading for each setting with results, and its backends, studyctl first."""
    chosen = {row.trial_id: row for row in rows if row.trial_id in lines}
    settings: dict[tuple[str, int | None], list[Agreement]] = {
        (chosen[trial].setting, chosen[trial].seed): [] for trial in lines if trial in chosen
    }
    for row in chosen.values():
        settings[row.setting, row.seed].append(row)
    seeds = Counter(setting for setting, _ in settings)
    for (setting, seed), members in settings.items():
        if any(row.measured for row in members):
            yield Line("", setting if seeds[setting] == 1 else f"{setting} seed {seed}")
            for row in members:
                mark = "" if row.state == "done" else f"{STATES[row.state]} "
                yield Line(row.trial_id, mark + row.maker, lines[row.trial_id].trial)

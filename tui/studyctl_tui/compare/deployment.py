"""The files that are deployed, on one machine with so many threads: size, quality, memory, speed, and what loads a variant."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rich.text import Text

from studyctl.contract.speed import Phase, SpeedVerdict
from studyctl.report.deployment import SERVERS, Front, front, speed_cell
from studyctl.report.effects import Effect, Form
from studyctl.report.layout import fixed, mib, ratio
from studyctl.store.results import Deployed
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.sheets import Cell, Sheet

BEST = "◆"
NOT_TIMED = "no file of this model was timed: [evaluation.speed] in the spec asks for it, or `studyctl bench`"
_SPEED = {"prompt ×": Phase.PREFILL, "output ×": Phase.DECODE}
_FIGURES: dict[str, Callable[[Deployed], Text]] = {
    "MiB": lambda row: mib(row.file_mib),
    "RAM": lambda row: mib(row.resident_mib),
    "load s": lambda row: fixed(row.load_seconds, 2),
    "KL": lambda row: Effect(row.kl_nats).text(Form.SHORT),
    "KL llama": lambda row: Effect(row.runtime_kl_nats).text(Form.SHORT),
    "acc": lambda row: fixed(row.acc, 3),
    "prompt/s": lambda row: ratio(row.prefill_rate),
    "prompt ×": lambda row: speed_cell(row, Phase.PREFILL, Form.PLAIN),
    "output/s": lambda row: ratio(row.decode_rate),
    "output ×": lambda row: speed_cell(row, Phase.DECODE, Form.PLAIN),
}
_FRONTS = {"MiB": Front.SIZE, "prompt/s": Front.PROMPT, "output/s": Front.OUTPUT}
_MEANINGS = {
    "MiB": "MiB of the GGUF file",
    "RAM": "MiB of memory that the runtime took on, after the prompt",
    "load s": "seconds to load the file, which is read and not mapped",
    "KL": "nats a token to dense, mean over the languages",
    "KL llama": "the same of what llama.cpp computes of the file, on the first windows",
    "acc": "mean accuracy",
    "prompt/s": "tokens of a prompt a second",
    "output/s": "tokens generated a second",
}


class DeploymentSheet(Sheet):
    """Files by figures."""

    least_width = 9

    def __init__(self, rows: Sequence[Deployed], lines: Iterable[Line]) -> None:
        """Lay out the rows of one machine and number of threads."""
        self._of = {row.trial_id: row for row in rows}
        self._best = {column: front(rows, by) for column, by in _FRONTS.items()}
        shown = [name for name in _FIGURES if name != "acc" or any(row.acc is not None for row in rows)]
        super().__init__(shown, lines)
        self.empty = NOT_TIMED
        if rows:
            first = rows[0]
            self.title = f"{first.threads} thread{'s' if first.threads != 1 else ''} of {first.cpu}"
        self.legend = f"{BEST} no file has both less KL and more of this  = within 5 %  ≈ not told apart"

    def has_figures(self, line: Line) -> bool:
        """Whether the file was timed."""
        return line.key in self._of

    def cell(self, line: Line, column: str) -> Cell:
        """Return a figure, marked where no file beats it in both this and KL."""
        row = self._of[line.key]
        mark = BEST if line.key in self._best.get(column, ()) else " "
        return Cell(_FIGURES[column](row).plain, mark=mark)

    def says(self, line: Line, column: str | None) -> str:
        """Return what a figure means, or which servers load a variant."""
        row = self._of.get(line.key)
        if row is None:
            return line.label
        if column in _SPEED:
            return f"{line.label}: {_speed(row, _SPEED[column])}"
        if column is not None:
            return f"{line.label} · {column} {self.cell(line, column).text}: {_MEANINGS[column]}"
        if row.why_no_speed:
            return f"{line.label} was not timed: {row.why_no_speed}"
        loaded = (
            f"{name}: {getattr(row, server)}" for server, name in SERVERS.items() if getattr(row, server)
        )
        return f"{line.label}: " + "; ".join(loaded)


def _speed(row: Deployed, phase: Phase) -> str:
    """Return what is known of a file's speed against dense."""
    words = "prompt" if phase is Phase.PREFILL else "output"
    verdict, low, high = (
        getattr(row, f"{phase}_{name}") for name in ("verdict", "itself_low", "itself_high")
    )
    if verdict is None:
        return f"{words}: dense, or too few rounds"
    itself = f"dense against itself {low:.2f} to {high:.2f} in {row.rounds} rounds"
    if verdict == SpeedVerdict.BUSY:
        return f"{words}: the machine was too busy for a verdict ({itself})"
    value, least, most = (getattr(row, f"{phase}_{name}") for name in ("ratio", "low", "high"))
    return f"{words} ×{value:.3f} ({least:.3f} to {most:.3f}) of dense: {verdict} ({itself})"


def deployment_sheets(comparison: Comparison, lines: Sequence[Line]) -> list[Callable[[], Sheet]]:
    """Return a table for each machine and number of threads that files were timed with."""
    return [partial(DeploymentSheet, rows, lines) for rows in comparison.deployment] or [
        partial(DeploymentSheet, (), lines)
    ]

"""The files that are deployed: size, speed, and what loads a variant."""

from collections.abc import Iterator, Sequence

from studyctl.contract.speed import Phase
from studyctl.report.deployment import Front, by_machine, front, remarks, servers, speed_cell
from studyctl.report.document.figures import plain
from studyctl.report.document.model import (
    Block,
    Cell,
    Column,
    Figure,
    Items,
    Paragraph,
    Point,
    Scatter,
    Section,
    Table,
)
from studyctl.report.document.selection import PANELS, Shown
from studyctl.report.effects import Effect
from studyctl.report.layout import fixed, mib, ratio
from studyctl.store.results import Deployed, Results

TITLES = (
    "variant", "file MiB", "RAM MiB", "load s", "KL", "KL in the runtime", "prompt tokens/s", "× dense", "output tokens/s",
    "× dense",
)  # fmt: skip


def deployment(results: Results, shown: Shown) -> Section | None:
    """Return the files of the trials that are shown, a table for each machine and number of threads; None if none was timed."""
    rows = [row for row in results.deployment() if row.trial_id in shown.trials]
    groups = by_machine(rows)
    if not groups:
        return None
    blocks: list[Block] = [
        Paragraph(
            "What the runtime does with each variant's file. Speeds are compared with dense within rounds; a verdict needs dense "
            "against itself to lie within 0.95 to 1.05. KL in the runtime: of its own logits, on a few windows of each language."
        )
    ]
    if panels := tuple(_scatter(shown, group) for group in groups[:PANELS]):
        caption = "KL to dense against tokens generated per second. The line joins the files that no other one beats in both."
        blocks.append(Figure(caption, panels))
    blocks += [_table(shown, group) for group in groups]
    if unloaded := tuple(servers(rows)):
        blocks.append(Items(unloaded))
    return Section("Deployment", tuple(blocks))


def _scatter(shown: Shown, rows: Sequence[Deployed]) -> Scatter:
    best = front(rows, Front.OUTPUT)
    points = tuple(
        Point(row.method, row.decode_rate, kl, None, None, row.trial_id in best)
        for row in rows
        if row.decode_rate is not None and (kl := 0.0 if row.variant == "dense" else row.kl_nats) is not None
    )
    kinds = tuple(dict.fromkeys(row.method for row in rows))
    title = f"{shown.names[rows[0].model]}, {_threads(rows[0])}"
    return Scatter(title, "output tokens/s, more is better", "KL, less is better", kinds, points)


def _threads(row: Deployed) -> str:
    return f"{row.threads} thread" + ("s" if row.threads != 1 else "")


def _table(shown: Shown, rows: Sequence[Deployed]) -> Table:
    names = shown.variants(rows[0].model)
    return Table(
        f"{shown.names[rows[0].model]}, {_threads(rows[0])}",
        (Column(TITLES[0], figures=False), *map(Column, TITLES[1:])),
        tuple((Cell(names[row.trial_id]), *_cells(row)) for row in rows),
        tuple(f"{remark}." for remark in remarks(rows)),
    )


def _cells(row: Deployed) -> Iterator[Cell]:
    yield plain(mib(row.file_mib))
    yield plain(mib(row.resident_mib))
    yield plain(fixed(row.load_seconds, 2))
    yield plain(Effect(row.kl_nats).text())
    yield plain(Effect(row.runtime_kl_nats).text())
    for phase in Phase:
        yield plain(ratio(getattr(row, f"{phase}_rate")))
        yield plain(speed_cell(row, phase))

"""``studyctl list``, and ``studyctl`` alone: the studies that are here."""

from rich.console import Console
from rich.table import Table

from studyctl.files import runs_folder
from studyctl.spec.bundled import bundled_names
from studyctl.store.studies import StudyRow, study_rows

_GLYPHS = {"running": "▶", "done": "✓", "failed": "✗", "unfinished": "◌", "empty": "·"}


def draw_studies(rows: list[StudyRow], console: Console) -> None:
    """Print the list."""
    if not rows:
        console.print(
            f"there are no studies in {runs_folder().resolve()}; `studyctl run pocket` makes one",
            soft_wrap=True,
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("study", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("failed", justify="right", no_wrap=True)
    table.add_column("host")
    table.add_column("last sign of life", no_wrap=True)
    for row in rows:
        sign = f"{row.last_sign.astimezone():%Y-%m-%d %H:%M:%S}" if row.last_sign else ""
        table.add_row(
            row.study,
            f"{_GLYPHS[row.state]} {row.state}",
            f"{row.done}/{row.trials}",
            str(row.failed or ""),
            row.host,
            sign,
        )
    console.print(table)


def welcome(console: Console) -> None:
    """Explain what is here: the studies, and the commands to try."""
    console.print(
        "studyctl measures what pruning and quantizing small language models costs.\n", soft_wrap=True
    )
    rows = study_rows()
    if rows:
        draw_studies(rows, console)
        name = rows[0].study
        commands = [
            (f"studyctl show {name}", "its results"),
            ("studyctl plan SPEC", "what a spec would run, and what that takes"),
            ("studyctl run SPEC", "bring its results up to date"),
        ]
    else:
        console.print(
            f"There are no studies in {runs_folder().resolve()} yet. Three commands to try:\n", soft_wrap=True
        )
        commands = [
            ("studyctl run pocket", "compress a small model and see what that costs (minutes)"),
            ("studyctl plan paper", "what a study of six models would take"),
            ("studyctl --help", "everything else"),
        ]
    console.print()
    for command, does in commands:
        console.print(f"  {command:24} {does}", soft_wrap=True)
    console.print(f"\nspecs that ship: {', '.join(bundled_names())}", soft_wrap=True)

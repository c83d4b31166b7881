"""What ``studyctl list``, and ``studyctl`` without a command, print."""

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from studyctl.files import runs_folder
from studyctl.printable import on_one_line
from studyctl.spec.bundled import bundled_names
from studyctl.store.studies import StudyRow, study_rows

GLYPHS = {
    "running": "▶",
    "died": "✗",
    "failed": "✗",
    "unreadable": "!",
    "unfinished": "◌",
    "done": "✓",
    "empty": "·",
}
"""By state of a study, the most urgent first."""
FIRST_STEPS = (
    ("studyctl run pocket", "compress a small model and see what that costs (minutes)"),
    ("studyctl plan paper", "what a study of six models would take"),
    ("studyctl edit mine.toml", "write a study of your own"),
)
"""What to try where there are no studies yet."""


def draw_studies(rows: list[StudyRow], console: Console) -> None:
    """Print the list, and below it the problems of studies that cannot be read."""
    if not rows:
        console.print(
            f"there are no studies in {runs_folder().resolve()}; `studyctl run pocket` makes one",
            soft_wrap=True,
            markup=False,
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("study", "state", "done", "failed", "host", "last sign of life"):
        justify: JustifyMethod = "right" if name in ("done", "failed") else "left"
        table.add_column(name, justify=justify, no_wrap=name != "host")
    for row in rows:
        sign = f"{row.last_sign.astimezone():%Y-%m-%d %H:%M:%S}" if row.last_sign else ""
        table.add_row(
            Text(on_one_line(row.study)),
            f"{GLYPHS[row.state]} {row.state}",
            "" if row.trouble else f"{row.done}/{row.trials}",
            str(row.failed or ""),
            Text(on_one_line(row.host)),
            sign,
        )
    console.print(table)
    for row in rows:
        if row.trouble:
            console.print(Text(f"\n! {row.study}: {row.trouble}\n  hint: {row.hint}"), soft_wrap=True)


def welcome(console: Console) -> None:
    """Show the studies here, and commands to try."""
    console.print(
        "studyctl measures what pruning and quantizing small language models costs.\n", soft_wrap=True
    )
    rows = study_rows()
    if rows:
        draw_studies(rows, console)
        commands = [
            ("studyctl watch", "look at all of them in the terminal"),
            (f"studyctl show {rows[0].study}", "its results"),
            ("studyctl run SPEC", "bring the results of a spec up to date"),
        ]
    else:
        console.print(
            f"There are no studies in {runs_folder().resolve()} yet. Three commands to try:\n",
            soft_wrap=True,
            markup=False,
        )
        commands = [*FIRST_STEPS]
    console.print()
    for command, does in commands:
        console.print(f"  {command:24} {does}", soft_wrap=True, markup=False)
    console.print(
        "\n`studyctl watch` shows studies while they run, `studyctl --help` lists everything else",
        soft_wrap=True,
        markup=False,
    )
    console.print(f"specs that ship: {', '.join(bundled_names())}", soft_wrap=True)

"""What ``studyctl list``, and ``studyctl`` without a command, print."""

from shlex import quote

from rich.console import Console
from rich.text import Text

from studyctl.files import runs_folder
from studyctl.printable import on_one_line
from studyctl.report.layout import Column, print_tables
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
    signs = [row.last_sign.astimezone() if row.last_sign else None for row in rows]
    columns = [
        Column("state", [Text(f"{GLYPHS[row.state]} {row.state}") for row in rows], left=True),
        Column("done", [Text("" if row.trouble else f"{row.done}/{row.trials}") for row in rows]),
        Column("failed", [Text(str(row.failed or "")) for row in rows]),
        Column("host", [Text(on_one_line(row.host)) for row in rows], left=True),
        Column(
            "last sign of life",
            [Text(f"{sign:%Y-%m-%d %H:%M:%S}" if sign else "") for sign in signs],
            left=True,
        ),
    ]
    print_tables(console, "study", [Text(on_one_line(row.study)) for row in rows], columns)
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
            (f"studyctl show {quote(rows[0].study)}", "its results"),
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

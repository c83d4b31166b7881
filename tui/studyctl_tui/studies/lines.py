"""What the studies screen says in words: of the study under the cursor, and where there are none."""

from pathlib import Path

from rich.text import Text

from studyctl.report.studies import FIRST_STEPS
from studyctl.store.studies import StudyRow
from studyctl.units import duration_text


def about_lines(row: StudyRow) -> tuple[Text, Text]:
    """Return two lines about a study: what it is, and what can be done."""
    if row.trouble:
        return Text.assemble(("! ", "bold red"), row.trouble), Text(f"enter says more · {row.hint}")
    title = Text.assemble((row.study, "bold"), f"  {row.title}")
    where = f" on {row.host}" if row.host else ""
    left = f" · {duration_text(row.seconds_left)} left" if row.seconds_left is not None else ""
    state = {
        "running": f"runs{where}{left} · x stops it",
        "died": f"its runner{where} died in the middle · R goes on, what was measured is kept",
        "failed": f"{row.failed} of {row.trials} trials failed · enter shows why, R tries them again",
        "unfinished": "nobody runs it · R goes on",
        "empty": "it has no trials yet · e opens its spec",
        "done": "all is measured · c compares",
    }
    return title, Text(state[row.state])


def first_steps(folder: Path) -> Text:
    """Return what to do where there are no studies."""
    lines = [Text(f"There are no studies in {folder} yet."), Text()]
    lines += [Text.assemble(("n", "bold"), "  starts one from here: `pocket` takes minutes"), Text()]
    lines += [Text("Or in the shell:"), Text()]
    lines += [Text.assemble("  ", (f"{command:26}", "bold"), does) for command, does in FIRST_STEPS]
    return Text("\n").join(lines)

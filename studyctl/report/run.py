"""What ``studyctl run`` says when it ends."""

from rich.console import Console

from studyctl.files import StudyPaths
from studyctl.report.show import show
from studyctl.store import results as store


def report_run(paths: StudyPaths, message: str, out: Console, err: Console, *, with_results: bool) -> None:
    """Print the end of a run, and the results: the answer to "is it done?"."""
    err.print(message, soft_wrap=True, markup=False)
    if with_results and paths.database.exists():
        with store.open(paths) as results:
            show(results, out)

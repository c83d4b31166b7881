"""The study's journal of hypotheses: when a run first recorded each of them.

A hypothesis that is older than the results that its verdict uses is confirmatory. The journal proves nothing to others: whoever
deletes it can begin anew.
"""

from collections.abc import Iterable

from studyctl.contract.hypotheses import PlannedHypothesis
from studyctl.contract.records import HypothesisDeclared
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalTail, JournalWriter


def declare(paths: StudyPaths, hypotheses: Iterable[PlannedHypothesis]) -> None:
    """Record the hypotheses that are not recorded yet as they are now.

    Raises:
        StudyError: the journal is damaged, or cannot be written.
    """
    recorded = declared(paths)
    new = [hypothesis for hypothesis in hypotheses if hypothesis.hash not in recorded]
    if new:
        with JournalWriter(paths.hypotheses) as journal:
            for hypothesis in new:
                journal.write(HypothesisDeclared(name=hypothesis.name, hash=hypothesis.hash))


def declared(paths: StudyPaths) -> dict[str, str]:
    """Return when each hypothesis was first recorded, by its hash; UTC, ISO 8601.

    Raises:
        StudyError: the journal is damaged in the middle.
    """
    times: dict[str, str] = {}
    for record in JournalTail(paths.hypotheses).new_records():
        if isinstance(record, HypothesisDeclared):
            times.setdefault(record.hash, record.at)
    return times

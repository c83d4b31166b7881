"""The published findings of a study."""

from dataclasses import dataclass

from studyctl.files import StudyPaths
from studyctl.store import results
from studyctl.store.replaced import once_more_if_replaced
from studyctl.store.results import HypothesisResult, HypothesisRow, HypothesisTrial, Reversal


@dataclass(frozen=True, slots=True)
class Finding:
    """A hypothesis with everything that its verdict rests on."""

    result: HypothesisResult
    rows: tuple[HypothesisRow, ...] = ()
    trials: tuple[HypothesisTrial, ...] = ()
    reversals: tuple[Reversal, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """The hypotheses of a spec, in its order."""

    hypotheses: tuple[Finding, ...] = ()
    methods: tuple[str, ...] = ()
    """Of the compressed variants, in the order of the plan."""


@once_more_if_replaced
def read_findings(paths: StudyPaths) -> Findings:
    """Read what was published last. Call it in a thread.

    Raises:
        StudyError: nothing is published, or by another version.
    """
    with results.open(paths) as reader:
        rows, trials, reversals = reader.hypothesis_rows(), reader.hypothesis_pairs(), reader.reversals()
        return Findings(
            tuple(
                Finding(
                    result,
                    tuple(row for row in rows if row.hypothesis == result.name),
                    tuple(trial for trial in trials if trial.hypothesis == result.name),
                    tuple(reversal for reversal in reversals if reversal.hypothesis == result.name),
                )
                for result in reader.hypotheses()
            ),
            tuple(dict.fromkeys(row.method for row in reader.variants() if row.method != "dense")),
        )

"""The work of a study without the study: jobs one after another in this process, and nobody who writes anything down.

``python -m benchmarks.bare JOBS``: the peer that ``overhead`` compares ``studyctl run`` with. Imports torch.
"""

import sys
from pathlib import Path

import torch

from studyctl.contract.job import Job
from studyctl.contract.records import Record
from studyctl.contract.steps import Step, StepKind
from studyctl.reporter import SilentReporter
from studyctl.work.engine import Engine
from studyctl.work.recorder import Recorder


class Nobody(SilentReporter, Recorder):
    """Throws every record away."""

    def __init__(self) -> None:
        """Have no journal and no runner."""

    def record(self, record: Record) -> None:
        """Throw it away."""


def run(job: Job, engine: Engine) -> None:
    """Do a job's steps in the order in which an attempt does them."""
    nobody = Nobody()
    engine.load(job, Step(StepKind.LOAD), nobody)
    for step in engine.steps(job, nobody):
        if step.kind is StepKind.COMPRESS:
            engine.compress(job, step, nobody)
        elif step.kind is StepKind.PERPLEXITY:
            engine.perplexity(job, step, nobody)
        else:
            engine.task(job, step, nobody)
    engine.keep_weights(job)


def main(jobs: Path) -> None:
    engine = Engine()
    for line in jobs.read_text().splitlines():
        job = Job.model_validate_json(line)
        torch.set_num_threads(job.threads)
        job.root.joinpath("journal").mkdir(parents=True, exist_ok=True)
        run(job, engine)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

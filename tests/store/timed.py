"""Sessions in which the files of a recorded study were timed."""

from collections.abc import Mapping

from studyctl.contract.records import SCHEMA, FileFacts, SpeedFinished, SpeedRun, SpeedStarted
from studyctl.journal.files import JournalWriter
from tests.store.builder import MODELS, VARIANTS, FakeStudy, trial_name

MODEL = MODELS[0]
DENSE, WANDA, RTN = (trial_name(MODEL, variant) for variant in VARIANTS)
FILES = {
    DENSE: FileFacts(bytes=200 << 20, vocabulary_bytes=50 << 20),
    WANDA: FileFacts(bytes=200 << 20, vocabulary_bytes=50 << 20),
    RTN: FileFacts(bytes=80 << 20, vocabulary_bytes=40 << 20),
}
SECONDS = {DENSE: 1.0, WANDA: 1.0, RTN: 0.5}
NOISE = (1.0, 1.01, 0.99, 1.0)
"""Of each round, by which dense's second copy differs."""


def time_files(
    study: FakeStudy,
    name: str = "first",
    *,
    cpu: str = "Some CPU",
    complete: bool = True,
    seconds: Mapping[str, float] = SECONDS,
    noise: tuple[float, ...] = NOISE,
    failed: str = "",
    threads: int = 2,
) -> None:
    """Write a session; ``failed``: a trial whose file cannot be timed."""
    with JournalWriter(study.paths.speed / f"{name}.jsonl", new=True) as journal:
        journal.write(
            SpeedStarted(
                schema=SCHEMA, studyctl="0.3.0", model=MODEL, host="node1", cpu=cpu, runtime="llama.cpp", build="b1", prompt=100,
                generate=10, rounds=3, most_rounds=9,
            )
        )  # fmt: skip
        for number, factor in enumerate(noise):
            for trial, base in seconds.items():
                for copy in (0, 1) if trial == DENSE else (0,):
                    journal.write(
                        _run(study, trial, number, copy, base * (factor if copy else 1.0), failed, threads)
                    )
        if complete:
            journal.write(SpeedFinished(rounds=len(noise)))


def _run(
    study: FakeStudy, trial: str, number: int, copy: int, seconds: float, failed: str, threads: int
) -> SpeedRun:
    run = SpeedRun(
        file=trial, weights_key=study.weights_key(trial), weights_hash=study.weights_hashes.get(trial, f"hash-of-{trial}"),
        file_bytes=FILES[trial].bytes or 0, copy=copy, round=number, place=copy, threads=threads,
    )  # fmt: skip
    if trial == failed:
        run.error = "its process was killed by SIGKILL"
        return run
    run.load_seconds, run.resident_bytes = 0.25, 300 << 20
    run.prefill_seconds = run.prefill_cpu_seconds = seconds
    run.decode_seconds = run.decode_cpu_seconds = 2 * seconds
    return run

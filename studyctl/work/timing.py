"""A process that times one GGUF file in llama.cpp, and ends: ``python -m studyctl.work.timing FILE THREADS PROMPT GENERATE``.

It prints a :class:`Timing` as JSON, or ends with an error on stderr. Two loaded copies of a file decode at speeds that differ by up to
20 %, so a process times one copy; the pages of a mapped file would be shared between processes, so it is read.
"""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import msgspec
import psutil

from studyctl.errors import StudyError
from studyctl.llama import INSTALL, LlamaModel, find_llama

WARM_UP = 32
"""Tokens that are computed before the clock starts: threads begin, and buffers get their pages."""

LEAST_SECONDS, MOST_TIMES = 0.5, 10
"""A phase of a small model takes a few hundredths of a second: it is repeated until its times together are no matter of chance."""


class Timing(msgspec.Struct):
    """What a file took. Seconds are wall time, and CPU time of all threads together."""

    load_seconds: float
    resident_bytes: int
    """Memory that the process took on since it loaded the library: after the prompt."""
    prefill_seconds: float
    prefill_cpu_seconds: float
    decode_seconds: float
    decode_cpu_seconds: float


def time_file(folder: Path, file: Path, threads: int, prompt: int, generate: int) -> Timing:
    """Load a file, compute a prompt in batches, and then one token after another; several times, if that is over in a moment.

    Args:
        folder: of llama.cpp's library.
        file: the GGUF file.
        threads: of the runtime.
        prompt: tokens of the prompt.
        generate: tokens that are generated. Which ones does not matter for the time, so they are drawn.

    Raises:
        StepError: llama.cpp does not load or compute it.
    """
    process, begun = psutil.Process(), time.perf_counter()
    before, resident = process.memory_info().rss, 0
    prefills: list[_Seconds] = []
    decodes: list[_Seconds] = []
    with closing(LlamaModel(folder, file, mapped=False)) as model:
        loaded = time.perf_counter() - begun
        drawn = random.Random(0).choices(range(model.tokens), k=WARM_UP + prompt + generate)
        while not prefills or (
            len(prefills) < MOST_TIMES
            and any(sum(times.wall for times in phase) < LEAST_SECONDS for phase in (prefills, decodes))
        ):
            with model.session(len(drawn), threads) as session:
                session.feed(drawn[:WARM_UP])
                with _timed(prefills):
                    session.feed(drawn[WARM_UP : WARM_UP + prompt])
                resident = resident or process.memory_info().rss - before
                with _timed(decodes):
                    for token in drawn[WARM_UP + prompt :]:
                        session.feed([token])
    phases = (fmean(times) for phase in (prefills, decodes) for times in zip(*phase, strict=True))
    return Timing(loaded, resident, *phases)


class _Seconds(NamedTuple):
    wall: float
    cpu: float


@contextmanager
def _timed(times: list[_Seconds]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    times.append(_Seconds(time.perf_counter() - wall, time.process_time() - cpu))


def main() -> None:
    """Time the file that the arguments name."""
    file, *numbers = sys.argv[1:]
    threads, prompt, generate = map(int, numbers)
    try:
        if (folder := find_llama()) is None:
            raise SystemExit(f"llama.cpp's library is not here: {INSTALL}")
        timing = time_file(folder, Path(file), threads, prompt, generate)
    except StudyError as error:
        raise SystemExit(str(error)) from error
    sys.stdout.buffer.write(msgspec.json.encode(timing))


if __name__ == "__main__":
    main()

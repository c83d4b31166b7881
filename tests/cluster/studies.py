"""A study of several tiny trials, run by ``studyctl run --on``, and what happens to its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from studyctl.files import StudyPaths
from studyctl.store.holder import Holder, WorkerState, read_holder
from studyctl.store.query import run_sql
from tests.run.studies import SPEC

SECONDS = 120.0
"""How long a test waits for anything, on a busy machine."""

VARIANTS = """
[[compression]]
method = "rtn"
bits = [2, 3, 5, 6, 8]
group_size = 16
[[compression]]
method = "magnitude"
sparsity = [0.25, 0.4, 0.6, 0.75]

[text.mine]"""

Results = dict[str, list[dict[str, object]]]
QUERIES = {
    "windows": 'select trial_id, language, "window", nll_nats, kl_nats from windows order by all',
    "items": "select trial_id, task, item, predicted, loglikelihoods from items order by all",
    "layers": "select trial_id, block, linear, relative_error, sparsity from layers order by all",
}

WORKER = """
executor = "{executor}"
max_workers = {workers}
host = "127.0.0.1"
[worker]
device = "cpu"
cpus = 1
idle = "60 s"
{more}
"""

SUBMIT = """#!/bin/bash
# A scheduler of one machine: starts a script in the background and prints its process id.
setsid bash "$1" </dev/null >/dev/null 2>&1 &
echo "$!" >>"$(dirname "$0")/jobs"
echo "started as $!"
"""
LIST = """#!/bin/bash
for pid in $(cat "$(dirname "$0")/jobs" 2>/dev/null); do kill -0 "$pid" 2>/dev/null && echo "$pid"; done; true
"""


def results(paths: StudyPaths) -> Results:
    return {name: run_sql(paths, query).to_pylist() for name, query in QUERIES.items()}


def wait_for(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"no {what} after {seconds:.0f} s"
        time.sleep(0.02)


@dataclass
class Run:
    """A ``studyctl run`` in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, code: int = 0) -> str:
        """Wait for its end and return what it printed."""
        ended = self.process.wait(SECONDS)
        printed = self.log.read_text()
        assert ended == code, printed
        return printed

    def printed(self, text: str) -> bool:
        return text in self.log.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@dataclass
class Cluster:
    """A study and where it runs."""

    folder: Path
    runs: list[Run] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = SPEC.format(languages='["en", "de"]', execution="retries = 2").replace(
            "[text.mine]", VARIANTS.lstrip()
        )
        (self.folder / "small.toml").write_text(spec)
        for name, text in (("submit.sh", SUBMIT), ("list.sh", LIST)):
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o755)

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.folder / "runs" / "small")

    def profile(
        self, name: str = "here", executor: str = "command", workers: int = 2, more: str = ""
    ) -> Path:
        """Write a profile; its ``command`` starts workers as processes of this machine."""
        path = self.folder / "profiles" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        text = WORKER.format(executor=executor, workers=workers, more=more)
        if executor == "command":
            submit, listing = self.folder / "submit.sh", self.folder / "list.sh"
            text += f'[command]\nsubmit = "{submit} {{script}}"\nlist = "{listing}"\ncancel = "kill {{id}}"\n'
        path.write_text(text)
        return path

    def run(self, on: str = "here", *options: str) -> Run:
        log = self.folder / f"run{len(self.runs)}.log"
        command = [
            sys.executable,
            "-m",
            "studyctl",
            "run",
            "small.toml",
            *options,
            *(["--on", on] if on else []),
        ]
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | threads | self.environment, start_new_session=True,
            )  # fmt: skip
        self.runs.append(Run(process, log))
        return self.runs[-1]

    def holder(self) -> Holder | None:
        return read_holder(self.paths)

    def workers(self) -> list[WorkerState]:
        holder = self.holder()
        return list(holder.workers) if holder is not None else []

    def agents(self) -> list[psutil.Process]:
        """Return the processes ``studyctl worker`` of this study."""
        root = str(self.paths.root.resolve())
        chosen = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                line = process.cmdline()
                if "worker" in line and root in line:
                    chosen.append(process)
        return chosen

    def end(self) -> None:
        for process in [*(run.process.pid for run in self.runs), *(agent.pid for agent in self.agents())]:
            with suppress(psutil.NoSuchProcess):
                for child in [*psutil.Process(process).children(recursive=True), psutil.Process(process)]:
                    with suppress(psutil.NoSuchProcess):
                        child.send_signal(signal.SIGKILL)
        for run in self.runs:
            run.process.wait(SECONDS)

"""What passes between a worker and a package's process, and how that process ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from studyctl.backends import tiny_model
from studyctl.backends.exchange import DriverCause, Outcome, call_driver, clean_environment
from tests.backends.fakes import (
    ADAPTER,
    RTN,
    SECONDS,
    has_ended,
    holds,
    needs_linux,
    starts_another,
    starts_another_and_stays,
    whoever_holds,
    write_script,
)

HERE = Path(sys.executable)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of an attempt, in which the worker has written already."""
    path = tmp_path / "attempt.log"
    path.write_text("of the worker\n")
    return path


def call(log: Path, adapter: str, task: dict[str, Any] | None = None, **more: Any) -> Outcome:
    script = write_script(log.parent / "adapter.py", adapter)
    return call_driver(HERE, script, task, log=log, **more)


class TestAnImport:
    """Without a task the package is only imported: enough to see how a process ends."""

    def test_tells_versions(self, log: Path) -> None:
        outcome = call(log, "PACKAGES = ('pytest', 'numpy')")
        assert outcome == Outcome(versions={"pytest": pytest.__version__, "numpy": np.__version__})

    def test_that_raises_fails_in_the_words_of_the_error(self, log: Path) -> None:
        outcome = call(log, "raise ValueError('no such\\n   kernel')")
        assert (outcome.failure, outcome.cause) == ("ValueError: no such kernel", DriverCause.ERROR)
        assert "Traceback" in log.read_text()
        assert log.read_text().startswith("of the worker\n")

    @pytest.mark.parametrize(
        "raised",
        [
            "MemoryError()",
            'RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")',
            "RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes')",
            "type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')",
        ],
    )
    def test_that_lacks_memory_says_so(self, log: Path, raised: str) -> None:
        assert call(log, f"raise {raised}").cause is DriverCause.OUT_OF_MEMORY

    def test_that_exits_fails_in_the_packages_last_line(self, log: Path) -> None:
        adapter = (
            "import sys\nprint('loading')\nprint('this package needs a GPU\\n', file=sys.stderr)\nsys.exit(1)"
        )
        outcome = call(log, adapter)
        assert (outcome.failure, outcome.cause) == ("this package needs a GPU", DriverCause.ERROR)
        assert "loading\n" in log.read_text()

    def test_that_exits_with_words_fails_with_these(self, log: Path) -> None:
        assert call(log, "import sys\nsys.exit('no licence')").failure == "no licence"

    def test_that_exits_without_a_word_fails_with_its_exit_code(self, log: Path) -> None:
        outcome = call(log, "import os\nos._exit(3)")
        assert (outcome.failure, outcome.cause) == ("its process ended with exit code 3", DriverCause.ERROR)

    @pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
    def test_that_is_killed_names_the_signal(self, log: Path, name: str) -> None:
        outcome = call(
            log, f"import os, signal\nprint('so far so good')\nos.kill(os.getpid(), signal.{name})"
        )
        assert (outcome.failure, outcome.cause) == (f"its process was killed by {name}", DriverCause.KILLED)

    def test_is_told_what_could_not_be_imported(self, log: Path) -> None:
        outcome = call(log, "import of_a_broken_environment")
        assert outcome.cause is DriverCause.NOT_IMPORTED
        missing = call(log, "PACKAGES = ('of-a-broken-environment',)")
        assert (missing.failure or "").startswith("PackageNotFoundError")
        assert missing.cause is DriverCause.NOT_IMPORTED

    def test_may_print_what_looks_like_a_record(self, log: Path) -> None:
        line = '{"kind": "failed", "error": "not at all", "cause": "error"}'
        outcome = call(log, f"print('{line}')\nPACKAGES = ()")
        assert outcome.failure is None
        assert line in log.read_text()

    def test_leaves_no_files_where_the_caller_is(
        self, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        call(log, "open('quantize.log', 'w').close()\nPACKAGES = ()")
        assert list((tmp_path / "here").iterdir()) == []


class TestSurroundings:
    def test_packages_of_the_caller_are_not_seen(
        self, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_script(tmp_path / "others" / "of_the_caller.py", "")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "others"))
        monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
        outcome = call(log, "import of_the_caller")
        assert outcome.failure == "ModuleNotFoundError: No module named 'of_the_caller'"
        assert not {"PYTHONPATH", "VIRTUAL_ENV"} & clean_environment().keys()

    def test_hub_libraries_work_offline_unless_the_network_is_allowed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"}
        assert offline <= clean_environment(network=False).keys()
        assert not offline & clean_environment(network=True).keys()

    def test_threads_are_those_of_the_task(self) -> None:
        assert clean_environment(threads=3)["OMP_NUM_THREADS"] == "3"

    @pytest.mark.parametrize("reach", ["socket.create_connection({address})", "socket.getaddrinfo('localhost', 80)",
                                       "urllib.request.urlopen('http://127.0.0.1:{address[1]}')"])  # fmt: skip
    @pytest.mark.parametrize("task", [None, {"network": False, "threads": 1}], ids=["import", "task"])
    def test_the_network_is_refused(self, log: Path, reach: str, task: dict[str, Any] | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            code = reach.format(address=server.getsockname())
            outcome = call(log, f"import socket, urllib.request\n{code}", task)
        assert outcome.failure is not None
        assert "network access is not allowed here: socket." in outcome.failure

    def test_the_network_is_there_where_it_is_allowed(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            code = f"import socket\nsocket.create_connection({server.getsockname()})\nraise ValueError('got there')"
            assert call(log, code, {"network": True, "threads": 1}).failure == "ValueError: got there"

    @pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")
    def test_processes_of_a_package_may_talk_to_each_other(self, log: Path) -> None:
        code = """
        import socket
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("here")
            server.listen()
            client.connect("here")
        PACKAGES = ()
        """
        assert call(log, code).failure is None


@needs_linux
class TestItsEnd:
    @pytest.fixture
    def pipe(self, tmp_path: Path) -> Path:
        os.mkfifo(tmp_path / "begun")
        return tmp_path / "begun"

    def test_comes_when_the_worker_is_asked_to_stop(self, log: Path, tmp_path: Path) -> None:
        class StopError(Exception):
            pass

        begun = tmp_path / "begun"
        pids: list[int] = []

        def meanwhile() -> None:
            if begun.exists() and (number := begun.read_text()):
                pids.append(int(number))
                raise StopError

        with pytest.raises(StopError):
            call(log, holds(begun), meanwhile=meanwhile)
        assert has_ended(pids[0])

    def test_is_that_of_what_the_package_started(self, log: Path, pipe: Path) -> None:
        with whoever_holds(pipe) as who:
            assert call(log, starts_another(pipe)).failure is None
            pid = who()
        assert has_ended(pid), "what a package started outlived it"

    @pytest.mark.parametrize(
        "source", [holds, starts_another_and_stays], ids=["alone", "with what it started"]
    )
    def test_comes_when_the_worker_is_killed(
        self, log: Path, pipe: Path, source: Callable[[Path], str]
    ) -> None:
        script = write_script(log.parent / "adapter.py", source(pipe))
        program = (
            "import sys\nfrom pathlib import Path\nfrom studyctl.backends.exchange import call_driver\n"
            f"call_driver(Path(sys.executable), Path({str(script)!r}), None, log=Path({str(log)!r}))"
        )
        with whoever_holds(pipe) as who:
            worker = subprocess.Popen([sys.executable, "-c", program])
            try:
                pid = who()
            finally:
                worker.kill()
            assert worker.wait(timeout=SECONDS) == -signal.SIGKILL
        assert has_ended(pid), "a package's process outlived its worker"


class TestATask:
    @pytest.fixture(scope="class")
    def facts(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        """A tiny model with ids, as ``sync`` makes it for its check."""
        folder = tmp_path_factory.mktemp("tiny")
        tiny_model.main(folder)
        facts: dict[str, Any] = json.loads((folder / "task.json").read_text())
        facts["dense"]["tolerance_nats"] = 0.05  # that of bfloat16
        return facts

    @pytest.fixture
    def task(self, facts: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
        return {
            **facts, "method": "rtn", "options": RTN, "dtype": "bfloat16", "device": "cpu", "threads": 1,
            "out": str(tmp_path / "out"), "network": False,
        }  # fmt: skip

    def test_brings_weights_and_tells_how_it_goes(self, log: Path, task: dict[str, Any]) -> None:
        heard: list[Any] = []
        outcome = call(log, ADAPTER, task, hear=heard.append)
        assert outcome.failure is None, log.read_text()
        assert outcome.done
        assert heard == [{"kind": "progress", "done": 2, "total": 2, "unit": "block", "note": ""}]
        assert set(outcome.versions) == {"torch"}
        assert 0 < outcome.seconds < SECONDS
        assert outcome.peak_memory_bytes > 10_000_000
        weights = load_file(Path(task["out"]) / "plain.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
        assert abs(float((weights["model.layers.1.mlp.up_proj.weight"] == 0).float().mean()) - 0.5) < 0.01
        assert (Path(task["out"]) / "packed" / "model.safetensors").exists()

    def test_that_ends_without_a_result_fails(self, log: Path) -> None:
        task = {"network": False, "threads": 1}
        assert call(log, "import os\nos._exit(0)", task).failure == "its process ended without a result"
        outcome = call(log, "import os\nprint('nothing to do', flush=True)\nos._exit(0)", task)
        assert (outcome.failure, outcome.cause) == ("nothing to do", DriverCause.ERROR)

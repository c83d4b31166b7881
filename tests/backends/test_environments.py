"""Environments are made once, found again, and made again whatever interrupted the making."""

import json
import os
import signal
import site
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from studyctl.backends import environments
from studyctl.backends.catalog import Backend
from studyctl.backends.environments import Environment, environment, find_backend, remove, sync
from studyctl.backends.exchange import call_driver
from studyctl.errors import StudyError
from tests.backends.fakes import (
    ADAPTER,
    SECONDS,
    FakeUv,
    has_ended,
    holds,
    make_backend,
    needs_linux,
    whoever_holds,
    write_script,
)


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    """An installer that obeys; see :class:`FakeUv`."""
    fake = FakeUv(tmp_path / "path")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compressed, which takes seconds."""
    monkeypatch.setattr(environments, "_check", lambda target: {"fakepkg": "1.0"})


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return make_backend(tmp_path / "fake")


def sync_steps(backend: Backend) -> list[str]:
    """Sync, and return what was reported meanwhile."""
    steps: list[str] = []
    sync(backend, steps.append)
    return steps


def failure(backend: Backend) -> tuple[str, str]:
    """Return why a backend cannot be synced, and what to do."""
    with pytest.raises(StudyError) as caught:
        sync(backend, lambda step: None)
    (problem,) = caught.value.problems
    return problem.what, problem.hint


@pytest.mark.usefixtures("unchecked")
class TestSync:
    def test_makes_what_is_not_there(self, backend: Backend, uv: FakeUv) -> None:
        assert environment(backend).state == "missing"
        *steps, last = sync_steps(backend)
        assert steps == [
            "making the environment with uv",
            "installing fakepkg 1.0 and what it needs (about 1000 B, or 5.0 GiB with torch for a GPU)",
            "checking it on a tiny model",
        ]
        assert last.startswith("synced in ")
        target = environment(backend)
        assert target.state == "synced"
        assert target.size_bytes
        assert target.python.exists()
        made, installed = (call["command"] for call in uv.calls)
        assert made == ["venv", "--python", sys.executable, str(target.folder)]
        assert installed == [
            "pip", "install", "--python", str(target.python), "-r", str(backend.requirements),
        ]  # fmt: skip

    def test_does_nothing_the_second_time(
        self, backend: Backend, uv: FakeUv, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert sync(backend, lambda step: None)
        monkeypatch.setattr(subprocess, "Popen", None)  # whoever starts a process fails
        monkeypatch.setattr("filelock.FileLock", None)
        assert not sync(backend, lambda step: pytest.fail(step))

    def test_makes_it_again_when_the_pins_change(self, backend: Backend, uv: FakeUv) -> None:
        sync_steps(backend)
        (environment(backend).folder / "of the old one").touch()
        newer = make_backend(backend.folder, requirements="fakepkg==1.1\ntorch==1.0\n")
        assert environment(newer).state == "outdated"
        assert (
            "installing fakepkg 1.1 and what it needs (about 1000 B, or 5.0 GiB with torch for a GPU)"
            in sync_steps(newer)
        )
        assert environment(newer).state == "synced"
        assert not (environment(newer).folder / "of the old one").exists()

    def test_makes_it_again_when_its_python_is_gone(self, backend: Backend, uv: FakeUv) -> None:
        sync_steps(backend)
        environment(backend).python.unlink()
        environment(backend).python.symlink_to("of a Python that was upgraded")
        assert environment(backend).state == "outdated"
        sync_steps(backend)
        assert environment(backend).state == "synced"

    def test_makes_again_what_is_not_finished(self, backend: Backend, uv: FakeUv) -> None:
        half = environment(backend).folder / "lib" / "half"
        half.mkdir(parents=True)
        assert environment(backend).state == "unfinished"
        sync_steps(backend)
        assert environment(backend).state == "synced"
        assert not half.exists()

    def test_brings_build_tools_first_where_a_build_needs_what_is_there(
        self, tmp_path: Path, uv: FakeUv, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "/of/studyctl")
        fake = make_backend(tmp_path / "fake")
        needy = Backend(
            fake.name, fake.package, fake.folder, fake.abilities, 0,
            build_isolation=False, build_environment={"BUILD_CUDA_EXT": "0"},
        )  # fmt: skip
        sync_steps(needy)
        _, tools, packages = uv.calls
        assert tools["command"][-2:] == ["setuptools<81", "wheel"]
        assert packages["command"][-3:] == ["--no-build-isolation", "-r", str(needy.requirements)]
        assert packages["environment"]["BUILD_CUDA_EXT"] == "0"
        assert "PYTHONPATH" not in packages["environment"]


@pytest.mark.usefixtures("unchecked")
class TestWhatGoesWrong:
    def test_too_little_room_is_told_before_anything_is_made(
        self, backend: Backend, uv: FakeUv, cache: Path
    ) -> None:
        huge = Backend("fake", "fakepkg", backend.folder, {}, size_bytes=10**18)
        what, hint = failure(huge)
        assert what.startswith("fake takes 909495 TiB and ")
        assert what.endswith(f" are free in {cache}")
        assert "STUDYCTL_CACHE" in hint
        assert uv.calls == []
        assert environment(huge).state == "missing"

    def test_a_package_that_cannot_be_installed_is_told_in_the_installers_words(
        self, backend: Backend, uv: FakeUv
    ) -> None:
        output = (
            "Collecting fakepkg\nERROR: No matching distribution found for fakepkg==1.0\n[notice] a new pip"
        )
        uv.order(fail="pip", say=output)
        what, hint = failure(backend)
        assert what == "fake could not be installed: ERROR: No matching distribution found for fakepkg==1.0"
        assert f"all that was printed is in {environment(backend).log}" in hint
        assert "`studyctl backends sync fake` begins again" in hint
        assert "Collecting fakepkg" in environment(backend).log.read_text()
        assert environment(backend).state == "unfinished"
        uv.order()
        assert sync(backend, lambda step: None)
        assert "Collecting fakepkg" not in environment(backend).log.read_text(), "the log is of the last call"

    def test_an_installer_that_says_nothing_is_told_by_its_exit_code(
        self, backend: Backend, uv: FakeUv
    ) -> None:
        uv.order(fail="venv", say="")
        assert failure(backend)[0] == "fake could not be installed: its process ended with exit code 2"

    def test_a_cache_that_cannot_be_written_is_told(
        self, backend: Backend, uv: FakeUv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "file"))
        what, hint = failure(backend)
        assert what.startswith(f"{tmp_path}/file/backends cannot be written: ")
        assert "STUDYCTL_CACHE" in hint

    def test_an_unknown_name_is_told_with_the_nearest(self) -> None:
        with pytest.raises(
            StudyError, match="there is no backend `autogptq`: did you mean `auto-gptq`"
        ) as caught:
            find_backend("autogptq")
        assert caught.value.problems[0].hint == "there are autoawq, auto-gptq, gptqmodel, llm-compressor"


@pytest.mark.usefixtures("unchecked")
class TestRemove:
    def test_deletes_the_environment_and_its_log(self, backend: Backend, uv: FakeUv) -> None:
        sync_steps(backend)
        assert remove(backend)
        assert environment(backend).state == "missing"
        assert not environment(backend).log.exists()
        assert not remove(backend)

    def test_that_is_interrupted_leaves_something_unfinished(
        self, backend: Backend, uv: FakeUv, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync_steps(backend)

        def interrupt(folder: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(environments.shutil, "rmtree", interrupt)
            with pytest.raises(KeyboardInterrupt):
                remove(backend)
        assert environment(backend).state == "unfinished"
        assert sync(backend, lambda step: None)

    def test_of_what_a_study_uses_is_refused_with_who_uses_it(
        self, backend: Backend, uv: FakeUv, tmp_path: Path
    ) -> None:
        class EnoughError(Exception):
            pass

        sync_steps(backend)
        target, begun, refused = environment(backend), tmp_path / "begun", []
        adapter = write_script(tmp_path / "adapter.py", holds(begun))

        def meanwhile() -> None:
            if begun.exists() and (pid := begun.read_text()):
                with pytest.raises(StudyError) as caught:
                    remove(backend)
                refused.append((pid, caught.value.problems[0].what))
                raise EnoughError

        with pytest.raises(EnoughError):
            call_driver(target.python, adapter, None, log=environment(backend).log, meanwhile=meanwhile)
        ((pid, what),) = refused
        assert what == f"fake is compressing a variant in {target.folder} (process {pid})"
        assert remove(backend)


class TestTheCheck:
    def test_refuses_a_package_that_installs_and_does_not_work(self, tmp_path: Path, uv: FakeUv) -> None:
        backend = make_backend(tmp_path / "fake", adapter="import of_a_library_that_is_missing")
        what, hint = failure(backend)
        assert what == (
            "fake was installed and does not work: ModuleNotFoundError: No module named 'of_a_library_that_is_missing'"
        )
        assert str(environment(backend).log) in hint
        assert "Traceback" in environment(backend).log.read_text()
        assert environment(backend).state == "unfinished"

    def test_refuses_an_environment_without_torch(
        self, backend: Backend, uv: FakeUv, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install = environments._install

        def install_nothing(target: Environment, report: Any) -> None:
            install(target, report)
            (path,) = target.folder.glob("lib/*/site-packages/here.pth")
            path.unlink()

        monkeypatch.setattr(environments, "_install", install_nothing)
        what, _ = failure(backend)
        assert what.startswith("fake was installed and does not work: ModuleNotFoundError: No module named ")

    def test_only_imports_a_package_that_has_no_method_for_this_machine(
        self, tmp_path: Path, uv: FakeUv, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "_run", None)  # no model is made
        monkeypatch.setattr(
            environments, "_install", lambda *_: write_script(python, interpreter).chmod(0o755)
        )
        python = environment(make_backend(tmp_path / "fake")).python
        interpreter = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
        backend = make_backend(tmp_path / "fake", adapter=f"PACKAGES = ()\n{ADAPTER.partition(')')[2]}")
        nowhere = Backend("fake", "fakepkg", backend.folder, {}, size_bytes=0)
        assert sync(nowhere, lambda step: None)


def test_pip_installs_what_the_pins_say_where_there_is_no_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it as it is: a venv, pip without an index, the check by the adapter."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    packages = "\n".join(site.getsitepackages())
    make_wheel(wheels, "fakepkg", "1.0", {"fakepkg.py": "KEPT = 0.5", "here.pth": packages})
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_VERBOSE", "1")  # pip says more than it is asked for
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    adapter = "import fakepkg\n" + ADAPTER.replace('("torch",)', '("fakepkg",)')
    backend = make_backend(tmp_path / "fake", adapter, "fakepkg==1.0\n")
    making, installing, *_ = sync_steps(backend)
    assert making == "making the environment with venv and pip"
    assert installing.startswith("installing fakepkg 1.0 and what it needs")
    about = json.loads((environment(backend).folder / "synced.json").read_text())
    assert about["pins"] == backend.pins_key
    assert about["versions"] == {"fakepkg": "1.0"}


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> None:
    """Write a wheel."""
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for place, text in [
            *files.items(),
            *((f"{name}-{version}.dist-info/{part}", about[part]) for part in about),
        ]:
            wheel.writestr(place, text)


# -- interruptions


@contextmanager
def syncing(backend: Backend, uv: FakeUv) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Sync in another process until somebody holds; yield that process, and the number of who holds."""
    program = (
        # A shell's background jobs, and what they start, ignore Ctrl-C unless they ask for it.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom studyctl.backends.catalog import Ability, Backend\n"
        "from studyctl.backends.environments import sync\n"
        f"sync(Backend('fake', 'fakepkg', Path({str(backend.folder)!r}), {{'rtn': Ability({{}})}}, 0), lambda step: None)\n"
    )
    with whoever_holds(uv.begun) as who:
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        try:
            yield process, who()
        finally:
            process.kill()
            process.wait()


@needs_linux
class TestInterrupted:
    @pytest.mark.parametrize(
        ("moment", "how"),
        [
            ("venv", signal.SIGKILL),
            ("pip", signal.SIGKILL),
            ("pip", signal.SIGINT),
            ("check", signal.SIGKILL),
        ],
        ids=[
            "killed-while-made",
            "killed-while-installed",
            "ctrl-c-while-installed",
            "killed-while-checked",
        ],
    )
    def test_it_is_made_again_by_the_next_call(
        self, backend: Backend, uv: FakeUv, moment: str, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if moment == "check":
            write_script(backend.adapter, holds(uv.begun))
        uv.order(hold=moment)
        with syncing(backend, uv) as (process, holding):
            process.send_signal(how)
            process.wait(timeout=SECONDS)
            assert has_ended(holding), "what it had started goes on without it"
        left = environment(backend).folder / "lib"
        assert left.exists()
        assert environment(backend).state == "unfinished"
        (left / "half").touch()
        uv.order()
        monkeypatch.setattr(environments, "_check", lambda *_: {})
        assert sync(backend, lambda step: None)
        assert environment(backend).state == "synced"
        assert not (left / "half").exists()

    def test_who_comes_meanwhile_is_told(self, backend: Backend, uv: FakeUv) -> None:
        uv.order(hold="pip")
        with syncing(backend, uv):
            for call in (lambda: sync(backend, lambda step: None), lambda: remove(backend)):
                with pytest.raises(StudyError) as caught:
                    call()
                (problem,) = caught.value.problems
                assert problem.what == "fake is being synced or removed by another process"
                assert problem.hint == "wait until that has ended"
            assert environment(backend).state == "unfinished"
        assert remove(backend), "the lock ends with its process"

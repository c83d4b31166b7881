"""The counter of processes that the kernel killed for memory: of the process's own group where there is one."""

from pathlib import Path

import pytest

from studyctl.work.memory import _group_file


@pytest.mark.parametrize(
    ("membership", "file", "content"),
    [
        ("0::/user.slice/job_7\n", "user.slice/job_7/memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
        ("5:cpu,cpuacct:/x\n4:memory:/slurm/job_7\n0::/\n", "memory/slurm/job_7/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
)  # fmt: skip
def test_the_group_counts(tmp_path: Path, membership: str, file: str, content: str) -> None:
    (tmp_path / "cgroup").write_text(membership)
    counter = tmp_path / "fs" / file
    counter.parent.mkdir(parents=True)
    counter.write_text(content)
    assert _group_file(tmp_path / "cgroup", tmp_path / "fs") == counter


@pytest.mark.parametrize("membership", ["0::/\n", "", "0::/gone\n"])
def test_without_a_counter_the_machine_counts(tmp_path: Path, membership: str) -> None:
    (tmp_path / "cgroup").write_text(membership)
    assert _group_file(tmp_path / "cgroup", tmp_path / "fs") == Path("/proc/vmstat")
    assert _group_file(tmp_path / "nothing", tmp_path / "fs") == Path("/proc/vmstat")

"""Monitor's lines about the workers of a cluster."""

from datetime import UTC, datetime

import pytest

from studyctl.store.holder import Holder, Waiting, WorkerState
from studyctl_tui.monitor.workers import MOST_LINES, worker_lines


def runner(workers: list[WorkerState], waiting: list[Waiting]) -> Holder:
    now = datetime.now(UTC)
    return Holder(
        host="login", pid=1, created=0.0, since=now, heartbeat=now, attempts=(), workers=tuple(workers),
        waiting=tuple(waiting),
    )  # fmt: skip


def test_nodes_trials_and_what_waits_with_the_reason() -> None:
    workers = [
        WorkerState(name="ab", host="n1", device="cuda:0", trial="m-rtn-4bit", attempt=1),
        WorkerState(name="cd", host="n2", device="cuda:0", leaves=True),
    ]
    waiting = [Waiting(name=str(number), job=str(number), reason="pending: Resources") for number in range(3)]
    shown = worker_lines(runner(workers, waiting), 100).plain
    assert shown == "workers: n1 ▶ m-rtn-4bit · n2 free, leaves · 3 not there yet (pending: Resources)"


def test_a_worker_stays_on_one_line_and_reasons_are_put_together() -> None:
    workers = [
        WorkerState(name=host, host=host, device="cpu", trial=f"llama-12m-{variant}", leaves=host == "n3")
        for host, variant in (("n1", "wanda-0.3"), ("n2", "wanda-0.5"), ("n3", "gptq-3bit-g64"))
    ]
    waiting = [
        Waiting(name="a", job="7", reason="pending: Resources"),
        Waiting(name="b", job="8", reason="pending: Priority"),
    ]
    assert worker_lines(runner(workers, waiting), 78).plain.split("\n") == [
        "workers: n1 ▶ llama-12m-wanda-0.3 · n2 ▶ llama-12m-wanda-0.5",
        "         n3 ▶ llama-12m-gptq-3bit-g64, leaves",
        "         2 not there yet (pending: Resources, pending: Priority)",
    ]


def test_workers_of_this_machine_take_no_line() -> None:
    assert not worker_lines(runner([WorkerState(name="cpu", device="cpu", trial="m-dense")], []), 80)
    assert not worker_lines(None, 80)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_many_workers_are_summed_up_and_no_line_is_cut(width: int) -> None:
    workers = [
        WorkerState(name=f"w{n}", host=f"gpu-node-{n:03}", trial=f"model-{n}-gptq-4bit-g128")
        for n in range(64)
    ]
    shown = worker_lines(runner(workers, [Waiting(name="x", job="7", reason="pending: Priority")]), width)
    lines = shown.plain.split("\n")
    assert len(lines) <= MOST_LINES
    assert all(len(line) <= width for line in lines)
    assert "64 workers, 64 of them run a trial" in shown.plain
    assert "1 not there yet (pending: Priority)" in " ".join(shown.plain.split())

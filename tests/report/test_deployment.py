"""What is printed of deployed files."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.files import StudyPaths
from studyctl.report.deployment import Front, by_machine, front, servers, show_deployment
from studyctl.report.document.content import document
from studyctl.report.document.model import Figure, Table
from studyctl.report.trial import show_trial
from studyctl.store import results
from studyctl.store.publish import publish
from tests.store.builder import FakeStudy
from tests.store.timed import DENSE, FILES, RTN, WANDA, time_files


def timed(folder: Path, **session: object) -> FakeStudy:
    study = FakeStudy(folder / "study", files=FILES).write_all()
    time_files(study, **session)
    publish(study.paths)
    return study


def shown(paths: StudyPaths, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    with results.open(paths) as reader:
        show_deployment(reader, console)
    text: str = console.file.getvalue()
    return text


def test_a_table_of_files(tmp_path: Path) -> None:
    lines = [" ".join(line.split()) for line in shown(timed(tmp_path).paths).splitlines()]
    (rtn,) = [line for line in lines if line.startswith("rtn-4bit-g64")]
    assert rtn.startswith("rtn-4bit-g64 80.0 300 0.25")
    assert "×2.00±0.01" in rtn
    (wanda,) = [line for line in lines if line.startswith("wanda-0.5")]
    assert wanda.count("= ×1.000") == 2
    assert "Some CPU, 2 threads; llama.cpp b1; prompt of 100 tokens, 10 generated" in " ".join(lines)
    assert any(line.startswith("prefill, dense against itself: 0.9") for line in lines)


def test_a_busy_machine_gives_no_figure(tmp_path: Path) -> None:
    text = shown(timed(tmp_path, noise=(1.0, 1.5, 0.7, 1.1)).paths)
    assert "busy" in text
    assert "the machine was too busy for a verdict" in text
    assert "×2.0" not in text


def test_a_file_that_was_not_timed_is_named(tmp_path: Path) -> None:
    text = " ".join(shown(timed(tmp_path, failed=RTN).paths).split())
    assert "rtn-4bit-g64 was not timed: its process was killed by SIGKILL" in text


def test_nothing_timed_nothing_printed(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "study", files=FILES).write_all()
    publish(study.paths)
    assert shown(study.paths) == ""


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    assert max(map(len, shown(timed(tmp_path).paths, width).splitlines())) <= width


def test_the_front_has_what_no_other_file_beats_in_both(tmp_path: Path) -> None:
    with results.open(timed(tmp_path).paths) as reader:
        (rows,) = by_machine(reader.deployment())
    kl = {DENSE: None, WANDA: 0.5, RTN: 0.1}
    rows = [row._replace(kl_nats=kl[row.trial_id]) for row in rows]
    assert front(rows, Front.SIZE) == {DENSE, RTN}
    assert front(rows, Front.OUTPUT) == {DENSE, RTN}
    faster = [row._replace(decode_rate=9e9) if row.trial_id == WANDA else row for row in rows]
    assert front(faster, Front.OUTPUT) == {DENSE, RTN, WANDA}


def test_servers_that_do_not_load_a_trial_are_said_with_the_reason(tmp_path: Path) -> None:
    with results.open(timed(tmp_path).paths) as reader:
        (rows,) = by_machine(reader.deployment())
    rows = [row._replace(vllm_gpu="no kernel for groups of 16", transformers="loads") for row in rows]
    assert list(servers(rows)) == [
        "vLLM on a GPU does not load dense, wanda-0.5, rtn-4bit-g64: no kernel for groups of 16"
    ]


def test_a_trial_alone_has_its_speed_and_its_servers(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    with results.open(timed(tmp_path).paths) as reader:
        rows = [
            row._replace(transformers="loads", vllm_gpu="no kernel for groups of 16")
            for row in reader.deployment()
        ]
        show_trial(reader.standing(RTN), [row for row in rows if row.trial_id == RTN], console)
    text = console.file.getvalue()
    assert (
        "llama.cpp with 2 threads of Some CPU: prompt 200.0 tokens/s (×2.000 ±0.013 of dense), output 10.00"
        in text
    )
    assert "300 MiB of memory, loaded in 0.25 s" in text
    assert "transformers: loads" in text
    assert "vLLM on a GPU: no kernel for groups of 16" in text


def test_the_report_has_a_section(tmp_path: Path) -> None:
    with results.open(timed(tmp_path).paths) as reader:
        sections = {section.title: section for section in document(reader).sections}
    blocks = sections["Deployment"].blocks
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert table.caption == "alpha, 2 threads"
    assert [row[0].text for row in table.rows] == ["dense", "wanda-0.5", "rtn-4bit-g64"]
    assert [block for block in blocks if isinstance(block, Figure)]

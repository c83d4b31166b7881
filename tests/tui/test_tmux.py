"""The app as its user has it: in tmux at 80×24, with a line that breaks and comes back."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tui import studies
from tests.tui.tmux import Tmux, needs_tmux

pytestmark = [pytest.mark.slow, needs_tmux]


@pytest.fixture
def tmux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tmux]:
    monkeypatch.delenv("TMUX", raising=False)
    with Tmux.server(tmp_path) as server:
        yield server


def test_a_session_with_the_app(runs: Path, tmux: Tmux) -> None:
    study = studies.recorded(runs / "pocket")
    command = str(Path(sys.executable).with_name("studyctl"))
    tmux(
        "new-session",
        "-d",
        "-x",
        "80",
        "-y",
        "24",
        "-c",
        str(runs.parent),
        f"{command} watch pocket; echo the app has ended; cat",
    )

    # Open, move, filter.
    tmux.until_shown("gptq-4bit-g64")
    tmux.keys("Down", "Down")
    tmux.until_shown("wanda-0.5")
    tmux.keys("/")
    tmux.type("gptq")
    tmux.until_gone("sparsegpt-0.5")
    tmux.keys("Escape")
    tmux.until_shown("sparsegpt-0.5")

    # Edit the spec: a problem shows at its place; mended, saved.
    tmux.keys("4")
    tmux.until_shown("[study]")
    tmux.keys("C-End")
    tmux.keys("Enter")
    tmux.type("[evaluation.nothing]")
    tmux.until_shown("unknown key")
    for _ in range(len("[evaluation.nothing]") + 1):
        tmux.keys("BSpace")
    tmux.type("# seen in tmux")
    tmux.until(lambda seen: "unknown key" not in seen, "a spec without problems")
    tmux.keys("C-s")
    tmux.wait(lambda: study.spec.read_text().rstrip().endswith("# seen in tmux"), "the saved spec")

    # Ask.
    tmux.keys("M-5")
    tmux.until_shown("SQL")
    tmux.keys("F5")
    tmux.until_shown("5 rows")

    # The line breaks and comes back: the app is where it was, and leaves when told to.
    with tmux.client():
        tmux("detach-client")
    assert tmux("list-clients").strip() == ""
    with tmux.client():
        tmux.until_shown("5 rows")
        tmux.keys("C-q")
        tmux.until_shown("the app has ended")

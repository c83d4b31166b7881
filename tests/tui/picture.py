"""Draws the picture of the app for the README: ``python -m tests.tui.picture runs/pocket``, after ``make quickstart``."""

import asyncio
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from studyctl_tui.app import StudyApp
from tests.readme import origin
from tests.tui import studies
from tests.tui.app import settle
from tests.tui.record import record

PICTURE = Path(__file__).parents[2] / "docs" / "app.svg"
SIZE = (110, 32)


async def draw(run: Path, target: Path) -> None:
    """Write the monitor of a study that runs, as this finished run once was."""
    with TemporaryDirectory() as folder:
        os.environ["STUDYCTL_RUNS"] = folder
        recorded = Path(folder) / "recorded"
        record(run, recorded)
        app = StudyApp("monitor", study=studies.recorded_running(Path(folder) / "pocket", recorded))
        async with app.run_test(size=SIZE) as pilot:
            for keys in ("f", "right_square_bracket", "left_square_bracket"):
                for _ in range(4):
                    await settle(pilot)
                await pilot.press(keys)
            await settle(pilot)
            picture = app.export_screenshot(title="studyctl watch pocket")
            target.write_text(f"{picture.rstrip()}\n<!-- {origin()} -->\n")


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1]), PICTURE))

"""Draws the picture of the app for the README, from the recorded study: ``python -m tests.tui.picture``."""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from studyctl_tui.app import StudyApp
from tests.tui import studies
from tests.tui.app import settle

PICTURE = Path(__file__).parents[2] / "docs" / "app.svg"
SIZE = (110, 32)


async def draw(target: Path) -> None:
    """Write the monitor of a study that runs."""
    with TemporaryDirectory() as folder:
        os.environ["STUDYCTL_RUNS"] = folder
        app = StudyApp("monitor", study=studies.recorded_running(Path(folder) / "pocket"))
        async with app.run_test(size=SIZE) as pilot:
            for keys in ("f", "right_square_bracket", "left_square_bracket"):
                for _ in range(4):
                    await settle(pilot)
                await pilot.press(keys)
            await settle(pilot)
            target.write_text(app.export_screenshot(title="studyctl watch pocket"))


if __name__ == "__main__":
    asyncio.run(draw(PICTURE))

"""A study whose every text was written to take over the terminal of whoever looks at it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from studyctl.contract.plan import read_plan, write_plan
from studyctl.store.publish import publish
from tests.store.builder import FakeStudy
from tests.tui.studies import write_runner

BAD = (
    "a\x1b]52;c;cm0gLXJm\x07b\x1b]0;title\x07c\x1b[2J\x1b[31md\x9b5me\x85f\x7fg\x08h\rfront"
    "\u202ei\u2066j\u061ck\u200bl\u200dm\ufeffn\U000e0041o\u2028p[bold red]q[@click=app.quit]r[link=x:y]s :bomb:"
)
"""Titles, clipboards, colours, C1, backspace, carriage return, direction, no width, separators, Rich's markup and emoji."""
UNSEEN = "\x1b\x07\x9b\x85\x7f\x08\r\u202e\u2066\u061c\u200b\u200d\ufeff\U000e0041\u2028"
WORDS = "p[bold red]q[@click=app.quit]r[link=x:y]s :bomb:"
"""What is left of the end: markup as text."""


class HostileStudy(FakeStudy):
    """Model, backend, language and task have such names, too."""

    def trials(self) -> list[dict[str, Any]]:
        return [trial | {"model": BAD} for trial in super().trials()]


def hostile_study(root: Path) -> FakeStudy:
    """A trial failed, the others have warnings; a runner died."""
    study = HostileStudy(root, models=("alpha",), variants=("dense", "wanda-0.5", "rtn-4bit-g64"))
    protocol = study.protocol | {f"perplexity:{BAD}": "key", f"task:{BAD}": "key"}
    study.write_plan(title=BAD, protocols={BAD: protocol})
    planned = read_plan(study.paths)
    assert planned is not None
    write_plan(replace(planned, notes=(BAD,)), study.paths)
    first, second, third = (
        study.attempt(trial["trial"], host=BAD, device=BAD, studyctl=BAD, versions={BAD: BAD})
        for trial in study.trials()
    )
    third.warn("compress", BAD, **{BAD: BAD})
    first.run_all()
    second.progress("load", 1, 2, BAD, note=BAD)
    second.fail("compress", BAD)
    third.run_all()
    publish(study.paths)
    study.paths.logs.mkdir()
    for trial in study.trials():
        study.paths.attempt_log(trial["trial"], 1).write_text(f"{BAD}\n\x1b[32mgreen\x1b[0m\n")
    write_runner(study, alive=False)
    content = json.loads(study.paths.runner.read_text())
    study.paths.runner.write_text(json.dumps(content | {"host": BAD}))
    name, bad = json.dumps(root.name), json.dumps(BAD)
    study.paths.spec.write_text(f"[study]\nname = {name}\ntitle = {bad}\n[[models]]\nid = {bad}\n")
    return study

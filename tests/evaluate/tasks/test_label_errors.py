"""A right answer that no choice is would count as wrong for every model: it is an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studyctl.errors import StepError
from studyctl.evaluate.tasks.score import score_task
from studyctl.reporter import SilentReporter
from tests.evaluate.tasks.test_score_task import request_of


@pytest.mark.parametrize("label", [2, -1, "maybe"])
def test_label_outside_the_choices(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, label: object
) -> None:
    test = tmp_path / "test.jsonl"
    good = {
        "sentence1": "It rains.",
        "sentence2": "It is wet.",
        "label": "True" if isinstance(label, str) else 0,
    }
    test.write_text("\n".join(json.dumps(row) for row in (good, good | {"label": label})))
    request = request_of("rte", test)
    with pytest.raises(StepError) as caught:
        score_task(
            tiny(),
            tokenizer,
            request,
            batch_tokens=512,
            reporter=SilentReporter(),
        )
    problem = caught.value.problems[0]
    assert problem.what == f"the right answer of item 1 of {test} is not among its 2 choices"
    assert problem.hint == "the choices are ['True', 'False']"

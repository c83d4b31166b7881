"""A token that the model has no embedding for fails the steps whose text holds it, and only those."""

import json
from pathlib import Path

from studyctl.contract.records import StepFailed
from studyctl.contract.steps import StepKind
from studyctl.journal.files import read_journal
from studyctl.plan.planner import make_plan
from studyctl.spec.loading import load_spec
from tests.run.studies import write_spec
from tests.run.test_changed_content import Runner


def test_steps_say_which_text_holds_which_token(workplace: Path) -> None:
    path = workplace / "tiny" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 320, "content": "<new>"})
    path.write_text(json.dumps(tokenizer))
    for file in ("en/test", "en/train"):
        text = workplace / "text" / f"{file}.jsonl"
        text.write_text(text.read_text().replace("boat", "<new>"))
    runner = Runner(workplace, make_plan(load_spec(write_spec(workplace))))
    runner.run("dense", "wanda-0.5", "rtn-4bit-g16")

    failed = [one for path in runner.paths.journal.glob("*.jsonl") for one in read_journal(path)]
    errors = {(one.trial, one.step.kind): one.error for one in failed if isinstance(one, StepFailed)}
    what = "holds the token `<new>` (id 320), but the model's embedding has 320 rows"
    assert errors == {
        ("tiny-dense", StepKind.PERPLEXITY): f"perplexity text `mine` in en {what}",
        ("tiny-wanda-0.5", StepKind.COMPRESS): f"the calibration text {what}",
        ("tiny-rtn-4bit-g16", StepKind.PERPLEXITY): f"perplexity text `mine` in en {what}",
    }
    done = {one for one in runner.finished() if "perplexity:de" in one or "task:boats" in one}
    assert {one.split()[0] for one in done} == {"tiny-dense", "tiny-rtn-4bit-g16"}

"""Journals of other versions: those from before 0.2 are read as if this version had written them.

There a step was called a stage and identified by a string, all windows of a text were one step with totals of its own, and a
record's details were fields like the others.
"""

import msgspec

from studyctl.contract.records import SCHEMA, AnyRecord, AttemptStarted, convert
from studyctl.contract.steps import StepId

_KINDS = {"stage_started": "step_started", "stage_finished": "step_finished", "stage_failed": "step_failed"}
_EXPORT = (
    "folder", "format", "packed_bits", "why_plain", "weight_bytes", "stored_bits_per_weight", "model_bits_per_weight",
)  # fmt: skip
_NO_DETAIL = frozenset({"seq", "at", "kind", "trial", "attempt", "stage", "step", "message", "key"})
"""Fields of a warning that are not part of its details."""
_NULLS = frozenset({"nll_nats", "value", "perplexity"})
"""Fields in which ``null`` stands for a figure that is not finite."""


def upgraded(line: bytes) -> AnyRecord:
    """Return the record of a line that an earlier version wrote.

    Raises:
        ValueError: it is no record.
    """
    values = msgspec.json.decode(line)
    if not (
        isinstance(values, dict)
        and isinstance(values.get("seq"), int)
        and isinstance(values.get("kind"), str)
    ):
        raise ValueError("not a record")
    schema = values.get("schema")
    if values["kind"] == "attempt_started" and isinstance(schema, int) and schema > SCHEMA:
        # Of a later version: nothing but its version is read.
        return AttemptStarted(
            schema=schema,
            studyctl=str(values.get("studyctl", "(unknown)")),
            model="",
            method="",
            variant="",
            weights_key="",
        )
    values["kind"] = _KINDS.get(values["kind"], values["kind"])
    if isinstance(values.get("stage"), str):
        kind, subject = StepId.parse(values["stage"])
        values["step"] = {"kind": str(kind), "subject": subject, "key": values.get("key")}
    if values["kind"] == "warning":
        values["details"] = {name: values[name] for name in values.keys() - _NO_DETAIL}
    if values["kind"] == "step_finished" and "folder" in values:
        values["exported"] = {name: values[name] for name in _EXPORT if values.get(name) is not None}
    if values["kind"] == "attempt_started":
        values.setdefault("schema", 1)
        values.setdefault("studyctl", "")
    return convert({name: value for name, value in values.items() if value is not None or name in _NULLS})

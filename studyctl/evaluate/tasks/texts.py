"""The texts of items as they were scored, from lm-eval's requests: so that people can read what an answer was an answer to."""

from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from studyctl.contract.item_texts import ITEM_CHARACTERS, TASK_CHARACTERS, cut


def room_of(items: int) -> int:
    """Return how many characters an item of a task with so many items may have."""
    return min(ITEM_CHARACTERS, TASK_CHARACTERS // max(1, items))


def item_text(
    task: Task, doc: Mapping[str, Any], requests: Sequence[Instance], scored: int, room: int
) -> dict[str, Any]:
    """Return an item's row of :data:`~studyctl.contract.item_texts.ITEM_TEXTS`, without its number.

    Args:
        task: lm-eval's task.
        doc: the item.
        requests: those that the model answered.
        scored: how many of them are choices, or the one continuation, whose log-likelihoods are kept; 0 if there are none.
        room: characters that the item may have.
    """
    contexts = [str(request.args[0]) for request in requests[: max(1, scored)]]
    if task.OUTPUT_TYPE != "multiple_choice":
        target = _target(task, doc, requests[0])
        return {"prompt": cut(contexts[0], room), "choices": [], "target": target and cut(target, room)}
    prompt = _shared_beginning(contexts)
    answers = [request.args[1] for request in requests[:scored]]
    continued = [context[len(prompt) :] + answer for context, answer in zip(contexts, answers, strict=True)]
    choices = [cut(text.strip(), room // 2 // scored) for text in continued]
    prompt = cut(prompt, max(0, room - sum(map(len, choices))))
    return {"prompt": prompt, "choices": choices, "target": None}


def _shared_beginning(contexts: Sequence[str]) -> str:
    """Return what all contexts begin with: the whole of them if they are equal, else up to a blank."""
    shared = commonprefix(contexts)  # noqa: RUF071 - these are no paths
    if all(len(context) == len(shared) for context in contexts):
        return shared
    return shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1]


def _target(task: Task, doc: Mapping[str, Any], request: Instance) -> str | None:
    """Return the right answer of an item without choices; None if it has none."""
    if task.OUTPUT_TYPE == "loglikelihood":
        return str(request.args[1]).strip()
    if task.OUTPUT_TYPE == "generate_until":
        target = task.doc_to_target(doc)
        text = ", ".join(map(str, target)) if isinstance(target, list) else str(target)
        return text.encode(errors="replace").decode()  # no tokenizer has refused a lone surrogate in it
    return None

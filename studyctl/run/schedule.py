"""Which trial a free worker gets next."""

from collections.abc import Iterable, Mapping

from studyctl.plan.compare import Todo
from studyctl.plan.trials import Trial


def choose(todo: Mapping[str, Todo], running: Iterable[Trial], held_model: str | None) -> Todo | None:
    """Return the trial to run next, or None when all that are left must wait.

    A model's dense trial comes before its variants, which are compared with it and use its hidden states. A worker takes
    trials of the model that it holds in memory first.
    """
    dense_at_work = {trial.model.index for trial in running if trial.is_dense}
    dense_waiting = {entry.trial.model.index for entry in todo.values() if entry.trial.is_dense}
    ready = [
        entry
        for entry in todo.values()
        if entry.trial.is_dense or entry.trial.model.index not in dense_at_work | dense_waiting
    ]
    at_work = {trial.model.index for trial in running}

    def rank(entry: Todo) -> tuple[bool, bool]:
        identity = entry.trial.model.identity
        is_held = held_model is not None and identity is not None and identity.key == held_model
        return not is_held, entry.trial.model.index in at_work

    return min(ready, key=rank, default=None)

"""The text above the tables of the Compare screen, and instead of them."""

from collections.abc import Iterator, Sequence
from shlex import quote

from rich.text import Text

from studyctl.errors import StudyError
from studyctl_tui.compare.data import Choice, Comparison
from studyctl_tui.shared.view import View


def missing(comparison: Comparison | None, trouble: StudyError | None, view: View) -> Iterator[str]:
    """Yield why there is nothing to compare, and what to do; nothing while the results are read."""
    if trouble is not None:
        for problem in trouble.problems:
            yield problem.what
            if problem.hint:
                yield f"hint: {problem.hint}"
    elif comparison is not None:
        model = comparison.model or "any model"
        yield f"No compressed variant of {model} is measured yet: there is nothing to compare."
        if len(comparison.models) > 1:
            yield "m shows the next model."
        if not view.snapshot.running:
            yield f"`studyctl run {quote(str(view.paths.spec))}` measures what is missing; 2 shows how far it is."
    else:
        return
    if view.snapshot.running:
        yield "The study runs: results appear here by themselves."


def why_empty(choice: Choice) -> str:
    """Return why no variant is chosen."""
    if choice.pattern:
        return f"no variant matches {choice.pattern}: escape clears the filter"
    return "none of the marked trials is of this model: u shows all, m the next model"


def tabs(names: Sequence[str], active: int) -> Text:
    """Return the names of the parts, the active one in brackets."""
    text = Text()
    for number, name in enumerate(names):
        label, style = (f"[{name}]", "bold") if number == active else (f" {name} ", "dim")
        text.append(label, style).append(" ")
    return text


def state(comparison: Comparison | None, choice: Choice) -> Text:
    """Return the model, and how its variants are chosen, each after the key that changes it."""
    text = Text()
    if comparison is None or not comparison.models:
        return text
    place = comparison.models.index(comparison.model) + 1
    model = f"{comparison.model.rsplit('/', 1)[-1]} {place}/{len(comparison.models)}"
    grouped = "by method" if choice.grouped else ""
    marked = f"{len(choice.marked)} marked" if choice.marked else ""
    for key, value in (
        ("m", model),
        ("s", choice.sort),
        ("g", grouped),
        ("/", choice.pattern),
        ("u", marked),
    ):
        if value:
            text.append(key, "bold").append(f" {value}   ")
    return text

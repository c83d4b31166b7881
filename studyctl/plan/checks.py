"""What can be known about a model and a variant before weights are loaded."""

from collections import defaultdict
from math import gcd

from studyctl.contract.identity import ModelIdentity
from studyctl.errors import Problem
from studyctl.plan.variants import Variant
from studyctl.spec.loading import Document
from studyctl.spec.models import Model
from studyctl.spec.positions import Loc


def check_linears(
    document: Document, model: Model, identity: ModelIdentity, variants: list[Variant]
) -> list[Problem]:
    """Return a problem for each table whose group size or pattern does not divide a linear's inputs."""
    by_width: dict[int, list[str]] = defaultdict(list)
    for name, (_, inputs) in identity.linears.items():
        by_width[inputs].append(name)
    problems: list[Problem] = []
    for variant in variants:
        offending = {width: found for width in by_width if (found := variant.settings.problem_with(width))}
        if not offending:
            continue
        key, reason = next(iter(offending.values()))
        names = [name for width in offending for name in by_width[width]]
        widths = ", ".join(str(width) for width in sorted(offending))
        problem = document.problem(
            f"{reason} the input of {len(names)} linears (in = {widths})",
            (*variant.loc, key),
            note=f"{model.short_name}: {', '.join(_kinds(names))}",
            hint=_hint(key, list(by_width)),
        )
        if problem not in problems:
            problems.append(problem)
    return problems


def _kinds(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))


def _hint(key: str, widths: list[int]) -> str:
    common = gcd(*widths)
    if key == "group_size":
        best = next((size for size in (128, 64, 32, 16, 8) if common % size == 0), common)
        return f"{best} divides every linear of this model; 0 gives one scale an output channel"
    return f"the inputs of all linears are multiples of {common}"


def check_sequence_length(
    document: Document, loc: Loc, length: int, model: Model, identity: ModelIdentity | None
) -> list[Problem]:
    """Return a problem if windows are longer than the model's positions."""
    if (
        identity is None
        or identity.key is None
        or not identity.max_positions
        or length <= identity.max_positions
    ):
        return []
    what = f"sequence length {length} is over the maximum of {model.short_name}, {identity.max_positions}"
    return [document.problem(what, loc, hint=f"{identity.max_positions} or less")]

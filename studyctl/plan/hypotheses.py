"""From the ``[[hypotheses]]`` tables to the variants that they compare."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from studyctl.contract.hypotheses import (
    LEAST_CLUSTERS,
    Alternative,
    By,
    Combine,
    Interaction,
    Level,
    Measure,
    Metric,
    PlannedHypothesis,
    Sides,
)
from studyctl.errors import Problem, did_you_mean
from studyctl.files import digest
from studyctl.plan.variants import DENSE, Variant
from studyctl.spec.loading import Document
from studyctl.spec.messages import listing
from studyctl.spec.models import Hypothesis, Selector
from studyctl.spec.positions import Loc

_FIDELITY = {Measure.KL_RATIO: "kl", Measure.TOP1: "top1", Measure.SNR: "snr"}
_SHOWN_NAMES = 8


def resolve_hypotheses(
    document: Document, variants: Sequence[Variant], tasks: Collection[str]
) -> tuple[list[PlannedHypothesis], list[Problem]]:
    """Return every hypothesis with the variants that it compares, and a problem for each that compares nothing.

    Args:
        document: the spec.
        variants: of the study, dense among them.
        tasks: names of the tasks that are measured.
    """
    hypotheses, problems = [], []
    for index, table in enumerate(document.spec.hypotheses):
        resolver = _Resolver(document, variants, tasks, table, ("hypotheses", index))
        hypothesis = resolver.resolve()
        problems += resolver.problems
        if all(problem.severity == "warning" for problem in resolver.problems):
            hypotheses.append(hypothesis)
    return hypotheses, problems


@dataclass
class _Resolver:
    """Resolves one table, and collects its problems."""

    document: Document
    variants: Sequence[Variant]
    tasks: Collection[str]
    table: Hypothesis
    loc: Loc

    def __post_init__(self) -> None:
        self.problems: list[Problem] = []

    def resolve(self) -> PlannedHypothesis:
        table = self.table
        pairs = tuple(self._pairs()) if table.rank_agreement is None else ()
        for place, metric in enumerate(table.metrics):
            own = ("metric",) if table.rank_agreement is None else ("rank_agreement", place)
            self._check_measured(metric, (*self.loc, *own))
        self._check_groups()
        self._check_level()
        interaction = None
        if table.interaction is not None:
            first, second = table.interaction.levels
            interaction = Interaction(By(table.interaction.of), (first, second))
        margin = table.margin if table.margin is not None else table.metrics[0].measure.margin
        return PlannedHypothesis(
            name=table.name,
            claim=table.claim,
            hash=digest([table.model_dump(mode="json"), [[pair.left, pair.right] for pair in pairs]]),
            metrics=table.metrics,
            pairs=pairs,
            combine=Combine(table.combine),
            alternative=Alternative(table.alternative),
            margin=margin if table.rank_agreement is None else None,
            # Groups of languages (or tasks) are compared by their means.
            generalize=Level(table.generalize) if interaction is None else Level.LANGUAGES,
            family=table.family,
            by=By(table.by) if table.by is not None else None,
            interaction=interaction,
        )

    def _add(self, what: str, loc: Loc, note: str = "", hint: str = "", severity: str = "error") -> None:
        self.problems.append(self.document.problem(what, loc, note=note, hint=hint, severity=severity))

    # -- sides

    def _pairs(self) -> Iterator[Sides]:
        left, right = self.table.left, self.table.right
        assert left is not None
        assert right is not None
        sides = [self._selected(left, "left"), self._selected(right, "right")]
        if not all(sides):
            return
        if not self.table.match:
            yield from self._sides(sides[0], sides[1], self.loc)
        for index, match in enumerate(self.table.match):
            place: Loc = (*self.loc, "match", index)
            narrowed = [
                self._selected(selector, "match", index, name, among=side)
                for selector, name, side in ((match.left, "left", sides[0]), (match.right, "right", sides[1]))
            ]
            if all(narrowed):
                yield from self._sides(narrowed[0], narrowed[1], place)

    def _sides(self, left: Sequence[Variant], right: Sequence[Variant], loc: Loc) -> Iterator[Sides]:
        # Variants of other models may have the same name.
        names = [tuple(dict.fromkeys(variant.name for variant in side)) for side in (left, right)]
        if both := [name for name in names[0] if name in names[1]]:
            self._add(f"`{both[0]}` is on both sides", loc, hint="narrow `left` or `right`")
        else:
            yield Sides(names[0], names[1])

    def _selected(
        self, selector: Selector, *place: str | int, among: Sequence[Variant] | None = None
    ) -> list[Variant]:
        """Return the variants that meet every key of a selector; a problem where there are none."""
        loc: Loc = (*self.loc, *place)
        every = self.variants if among is None else among
        names_dense = DENSE.name in (*(selector.names or ()), *(selector.methods or ())) or among is not None
        selected = [variant for variant in every if variant != DENSE or names_dense]
        for key, values in (
            (key, getattr(selector, key)) for key in type(selector).model_fields if getattr(selector, key)
        ):
            for position, value in enumerate(values):
                if not any(_has(variant, key, value) for variant in every):
                    values_of = [item for variant in every for item in _values(variant, key)]
                    words = list(dict.fromkeys(map(_shown, values_of)))
                    note = did_you_mean(value, words) if isinstance(value, str) else ""
                    hint = f"there are {listing(words[:_SHOWN_NAMES])}" if words else ""
                    item: Loc = (*loc, key, position) if len(values) > 1 else (*loc, key)
                    self._add(f"no variant has {_NOUNS[key]} `{_shown(value)}`", item, note, hint)
                    return []
            selected = [variant for variant in selected if any(_has(variant, key, value) for value in values)]
        if not selected:
            names = [variant.name for variant in every][:_SHOWN_NAMES]
            self._add("no variant meets all of these keys", loc, hint=f"the variants are {listing(names)}")
        return selected

    # -- what is measured

    def _check_measured(self, metric: Metric, loc: Loc) -> None:
        evaluation, measure = self.document.spec.evaluation, metric.measure
        if measure.is_of_tasks:
            if evaluation.tasks is None:
                self._add(f"nothing measures {metric}", loc, hint="add `[evaluation.tasks]`")
            elif metric.task is not None and metric.task not in {*self.tasks, *evaluation.tasks.all_names}:
                note = did_you_mean(metric.task, self.tasks)
                self._add(
                    f"the study has no task `{metric.task}`",
                    loc,
                    note,
                    f"its tasks are {listing(self.tasks)}",
                )
        elif measure.is_of_text and evaluation.perplexity is None:
            self._add(f"nothing measures {metric}", loc, hint="add `[evaluation.perplexity]`")
        elif (needed := _FIDELITY.get(measure)) is not None and (
            evaluation.fidelity is None or needed not in evaluation.fidelity.metrics
        ):
            hint = f'add "{needed}" to `metrics` of `[evaluation.fidelity]`'
            self._add(f"nothing measures {metric}", loc, hint=hint)
        elif measure is Measure.PPL_RATIO:
            self._check_per_token(loc)

    def _check_per_token(self, loc: Loc) -> None:
        """Check that no figures per token of several languages or models are put together."""
        perplexity, table = self.document.spec.evaluation.perplexity, self.table
        several = {
            "language": perplexity is not None and len(perplexity.languages) > 1,
            "model": len(self.document.spec.models) > 1,
        }
        if mixed := [name for name, is_mixed in several.items() if is_mixed and table.by != name]:
            what = f"ppl_ratio is per token: it is no mean over {' and '.join(f'{name}s' for name in mixed)}"
            hint = f'use bits_per_byte, or by = "{mixed[0]}"' if len(mixed) == 1 else "use bits_per_byte"
            self._add(what, loc, hint=hint)

    def _check_level(self) -> None:
        """Warn of a level of which the study has too few: that is known before anything is measured."""
        spec, level = self.document.spec, self.table.generalize
        perplexity = spec.evaluation.perplexity
        counts = {"model": len(spec.models), "language": len(perplexity.languages) if perplexity else 0}
        for kind, count in counts.items():
            if f"{kind}s" in level.split("+") and count < LEAST_CLUSTERS and not self.problems:
                what = f"`{self.table.name}` cannot be tested: {count} {kind}{'s' * (count != 1)}, {LEAST_CLUSTERS} are needed"
                self._add(what, (*self.loc, "generalize"), severity="warning")

    def _check_groups(self) -> None:
        groups, evaluation = self.table.interaction, self.document.spec.evaluation
        if groups is None:
            return
        if By(groups.of) is By.LANGUAGE:
            names = evaluation.perplexity.languages if evaluation.perplexity else ()
        else:
            names = tuple(
                dict.fromkeys((*self.tasks, *(evaluation.tasks.all_names if evaluation.tasks else ())))
            )
        seen: set[str] = set()
        for place, level in enumerate(groups.levels):
            for position, name in enumerate(level):
                loc: Loc = (*self.loc, "interaction", "levels", place, position)
                if name in seen:
                    self._add(f"`{name}` is in both groups, or twice in one", loc)
                elif name not in names:
                    hint = f"there are {listing(names)}"
                    self._add(f"the study has no {groups.of} `{name}`", loc, did_you_mean(name, names), hint)
                seen.add(name)


_NOUNS = {
    "methods": "the method",
    "backends": "the backend",
    "bits": "bits =",
    "sparsity": "sparsity =",
    "names": "a name like",
}


def _values(variant: Variant, key: str) -> list[str | float]:
    """Return what a variant has for a key of a selector."""
    match key:
        case "methods":
            return [variant.method]
        case "backends":
            return [variant.backend]
        case "names":
            return [variant.name]
        case "bits":
            bits = getattr(variant.settings, "bits", None)
            return [] if bits is None else [float(bits)]
        case _:
            sparsity = getattr(variant.settings, "target_sparsity", None)
            return [] if sparsity is None else [float(sparsity)]


def _has(variant: Variant, key: str, value: str | float) -> bool:
    if key == "names":
        return fnmatchcase(variant.name, str(value))
    return value in _values(variant, key)


def _shown(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else value

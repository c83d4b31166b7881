"""Variants compared with dense: size and quality, languages, tasks, flips."""

from collections.abc import Iterator

from studyctl.report.document.figures import compared, plain
from studyctl.report.document.model import (
    Block,
    Cell,
    Column,
    Figure,
    HeatCell,
    HeatMap,
    Paragraph,
    Point,
    Scatter,
    Section,
    Table,
)
from studyctl.report.document.selection import PANELS, Shown, bounded
from studyctl.report.effects import LEGEND, UNSURE, effect
from studyctl.report.layout import MISSING, duration, fixed
from studyctl.report.sizes import OF_PRUNED, SIZES, mib_cells
from studyctl.store.results import LanguageResult, Size, Standing, TaskResult, size_of

MIB = "the GGUF file; in brackets, or where no variant has one, the weights of the whole model as an exported folder stores them"
MEASURES = {"bits_per_byte_change": "bits per byte", "acc": "accuracy"}
"""Measures of quality that are held against size, as the view ``pareto`` calls them."""
AT_CHANCE = "~"
HEAT_ROWS = 40
"""Rows of a heat map at most."""


def size_and_quality(shown: Shown) -> Section:
    """Return the leaderboard of each model, and the charts of quality against size."""
    blocks: list[Block] = [
        Paragraph(
            "Every figure compares a variant with its own dense model on the same windows and items. "
            f"MiB: {MIB}. {OF_PRUNED} "
            "ppl ratio: perplexity per token / that of dense, geometric mean over languages, as papers print it. "
            "Δ bits/byte: mean over languages, comparable between models and tokenizers. "
            "KL: of dense from the variant, nats per token. Time: all steps."
        )
    ]
    blocks += filter(None, (_pareto(shown, measure) for measure in MEASURES))
    blocks += [_leaderboard(shown, model, rows) for model, rows in shown.models.items()]
    return Section("Size and quality", tuple(blocks))


def _leaderboard(shown: Shown, model: str, rows: list[Standing]) -> Table:
    titles = ("variant", "bits/w", "MiB", "ppl ratio", "Δ bits/byte", "KL", "acc", "Δ acc", "time")
    names = shown.variants(model)
    return Table(
        shown.names[model],
        (Column(titles[0], figures=False), *map(Column, titles[1:])),
        tuple(
            (Cell(names[row.trial_id]), *_standing(row, size.plain))
            for row, size in zip(rows, mib_cells(rows), strict=True)
        ),
        (f"{LEGEND}.", *_front(shown, names)),
    )


def _front(shown: Shown, names: dict[str, str]) -> Iterator[str]:
    for measure, words in MEASURES.items():
        if front := [name for trial, name in names.items() if trial in shown.fronts.get(measure, ())]:
            yield f"On the Pareto front of size and {words}: {', '.join(front)}."


def _standing(row: Standing, size: str) -> Iterator[Cell]:
    yield plain(fixed(row.bits_per_weight, 1))
    yield Cell(size)
    yield _against_dense(row, "ppl_ratio")
    yield _against_dense(row, "bits_per_byte_change")
    yield _against_dense(row, "kl_nats")
    yield plain(fixed(row.acc, 3))
    yield _against_dense(row, "acc_change")
    yield plain(duration(row.total_seconds))


def _against_dense(row: Standing, name: str) -> Cell:
    return Cell(MISSING) if row.variant == "dense" else compared(row, name)


def _pareto(shown: Shown, measure: str) -> Figure | None:
    """Return quality against size, a panel a model; None if nothing has both."""
    models = list(shown.models)[:PANELS]
    kinds = tuple(dict.fromkeys(row.method for model in models for row in shown.models[model]))
    text = measure == "bits_per_byte_change"
    panels = []
    for model in models:
        size = size_of(shown.models[model])
        points = tuple(_points(shown, model, measure, size))
        if any(point.kind != "dense" for point in points):
            y = "Δ bits per byte, less is better" if text else "Δ accuracy, more is better"
            panels.append(Scatter(shown.names[model], SIZES[size], y, kinds, points))
    if not panels:
        return None
    hidden = len(shown.models) - len(models)
    caption = (
        f"{'Bits per byte' if text else 'Accuracy'} against size, with 95 % intervals. The line joins the Pareto front: "
        "no variant is both smaller and better."
        + (f" The first {PANELS} models; {hidden} more are in the tables." if hidden > 0 else "")
    )
    return Figure(caption, tuple(panels))


def _points(shown: Shown, model: str, measure: str, by: Size) -> Iterator[Point]:
    front = shown.fronts.get(measure, set())
    for row in shown.models[model]:
        size = by.of(row)
        change = effect(row, "acc_change" if measure == "acc" else measure)
        if size is not None and change.value is not None:
            on_front = row.trial_id in front
            yield Point(row.method, size, change.value, change.low, change.high, on_front)


def languages(shown: Shown) -> Section | None:
    """Return the change in bits per byte of each language: a heat map, and a table a model; None without texts."""
    cells = {(row.trial_id, row.language): row for row in shown.languages}
    if not cells:
        return None
    blocks: list[Block] = [
        Paragraph(
            "Change in bits per byte against dense, by language. Bytes can be compared between languages and tokenizers, "
            "tokens cannot. Dense rows: its bits per byte."
        ),
        *_heat(shown),
    ]
    for model, rows in shown.models.items():
        of_model = list(dict.fromkeys(row.language for row in shown.languages if row.model == model))
        if not of_model:
            continue
        names = shown.variants(model)
        unknown = [
            row.language
            for row in shown.languages
            if row.model == model and row.variant == "dense" and row.dense_knows is False
        ]
        notes = [f"{LEGEND}."]
        if unknown:
            notes.append(
                f"{', '.join(unknown)}: dense does not know this language (no better than bzip2), changes say little."
            )
        blocks.append(
            Table(
                shown.names[model],
                (Column("variant", figures=False), *map(Column, of_model)),
                tuple(
                    (
                        Cell(names[row.trial_id]),
                        *(_language(cells.get((row.trial_id, language))) for language in of_model),
                    )
                    for row in rows
                ),
                tuple(notes),
            )
        )
    return Section("Languages", tuple(blocks))


def _language(row: LanguageResult | None) -> Cell:
    if row is None:
        return Cell(MISSING)
    if row.variant == "dense":
        return plain(fixed(row.bits_per_byte, 3))
    return compared(row, "bits_per_byte_change")


def _heat(shown: Shown) -> Iterator[Figure]:
    """Yield a heat map: of one model variants by languages, else a panel a variant, models by languages."""
    variants = {model: shown.variants(model) for model in shown.models}
    several = len(shown.models) > 1
    panels: dict[str, list[HeatCell]] = {}
    methods: dict[str, str] = {}
    for row in shown.languages:
        value = row.bits_per_byte_change
        if row.variant == "dense" or value is None:
            continue
        variant, model = variants[row.model][row.trial_id], shown.names[row.model]
        methods[variant] = row.method
        panel, line = (variant, model) if several else (model, variant)
        unsure = effect(row, "bits_per_byte_change").is_unsure
        panels.setdefault(panel, []).append(HeatCell(line, row.language, value, unsure))
    if not panels:
        return
    changes = sorted(cell.value for cells in panels.values() for cell in cells)
    highest = max(changes[int(0.95 * (len(changes) - 1))], 0.01)
    notes = [f"Change in bits per byte; {UNSURE}: its interval holds no change."]
    if several and len(panels) > PANELS:
        notes.append(
            f"Of {len(panels)} variants, the best of each method; the tables have all that are shown."
        )
        panels = _best_of_methods(panels, methods)
    lines = list(dict.fromkeys(cell.row for cells in panels.values() for cell in cells))
    kept, hidden = bounded(lines, "rows", HEAT_ROWS)
    maps = [
        HeatMap(title, tuple(cell for cell in cells if cell.row in set(kept)), highest)
        for title, cells in panels.items()
    ]
    yield Figure(" ".join((*notes, *hidden)), tuple(one for one in maps if one.cells))


def _best_of_methods(panels: dict[str, list[HeatCell]], methods: dict[str, str]) -> dict[str, list[HeatCell]]:
    """Return the variant of each method that changes least, among those that most models have."""

    def worth(variant: str) -> tuple[int, float]:
        cells = panels[variant]
        return -len({cell.row for cell in cells}), sum(cell.value for cell in cells) / len(cells)

    best: dict[str, str] = {}
    for variant in sorted(panels, key=worth):
        best.setdefault(methods[variant], variant)
    return {variant: panels[variant] for variant in list(best.values())[:PANELS]}


def tasks(shown: Shown) -> list[Section]:
    """Return the changes of the tasks, and how items flipped; nothing without tasks."""
    if not shown.tasks:
        return []
    cells = {(row.trial_id, row.task): row for row in shown.tasks}
    changes: list[Block] = [
        Paragraph(
            "Change of each task's main metric against dense, items paired. Dense rows: its score. "
            f"{AT_CHANCE}: at chance, guessing does as well as this variant and dense together, so the change says nothing."
        )
    ]
    flips: list[Block] = [
        Paragraph(
            "Items that dense answers right and the variant wrong / the reverse. A mean hides them: as many may be won as lost. "
            "*: p < 0.05, exact McNemar test, not adjusted for the number of comparisons."
        )
    ]
    for model, rows in shown.models.items():
        names = shown.variants(model)
        metrics = {row.task: row.metric for row in shown.tasks if row.model == model}
        if not metrics:
            continue
        labels = {row.task: row.label for row in shown.tasks if row.model == model}
        heads = [
            labels[task] if metric == "acc" else f"{labels[task]} {metric}"
            for task, metric in metrics.items()
        ]
        columns = (Column("variant", figures=False), *map(Column, heads))
        some_at_chance = any(row.tasks_above_chance not in (None, row.tasks) for row in rows)
        means = (Column("mean"), Column("of those above chance")) if some_at_chance else (Column("mean"),)
        changes.append(
            Table(
                shown.names[model],
                (*columns, *means),
                tuple(
                    (
                        Cell(names[row.trial_id]),
                        *(_task(cells.get((row.trial_id, task))) for task in metrics),
                        *_means(row)[: len(means)],
                    )
                    for row in rows
                ),
                (f"{LEGEND}.",),
            )
        )
        compared = [row for row in rows if row.variant != "dense"]
        flips.append(
            Table(
                shown.names[model],
                (*columns, Column("all")),
                tuple(
                    (
                        Cell(names[row.trial_id]),
                        *(_flips(cells.get((row.trial_id, task))) for task in metrics),
                        _both(row.right_to_wrong, row.wrong_to_right),
                    )
                    for row in compared
                ),
            )
        )
    return [Section("Tasks", tuple(changes)), Section("Flips", tuple(flips))]


def _task(row: TaskResult | None) -> Cell:
    if row is None:
        return Cell(MISSING)
    mark = AT_CHANCE if row.above_chance is False else ""
    shown = plain(fixed(row.value, 3)) if row.variant == "dense" else compared(row, "change")
    return shown._replace(text=shown.text + mark)


def _means(row: Standing) -> tuple[Cell, Cell]:
    """Return the mean over all tasks, and how many are above chance with their mean."""
    if row.variant == "dense":
        return plain(fixed(row.acc, 3)), plain(fixed(row.acc_above_chance, 3))
    above = compared(row, "acc_change_above_chance")
    count = "" if row.tasks_above_chance is None else f"{row.tasks_above_chance}: "
    return compared(row, "acc_change"), above._replace(text=count + above.text)


def _flips(row: TaskResult | None) -> Cell:
    if row is None:
        return Cell(MISSING)
    both = _both(row.right_to_wrong, row.wrong_to_right)
    return Cell(both.text + ("*" if row.significant else ""))


def _both(right_to_wrong: int | None, wrong_to_right: int | None) -> Cell:
    if right_to_wrong is None or wrong_to_right is None:
        return Cell(MISSING)
    return Cell(f"{right_to_wrong} / {wrong_to_right}")

"""The files that are deployed: how large, how good and how fast they are, and what loads a trial."""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from studyctl.contract.servers import LOADS, Server
from studyctl.contract.speed import BAND, Phase, SpeedVerdict
from studyctl.report.effects import Effect, Form
from studyctl.report.layout import Column, fixed, mib, print_tables, ratio
from studyctl.store.results import Deployed, Results

SERVERS = {
    Server.TRANSFORMERS: "transformers",
    Server.VLLM_GPU: "vLLM on a GPU",
    Server.VLLM_CPU: "vLLM on a CPU",
}
BUSY = "busy"
SPEED_LEGEND = f"×: speed over that of dense with its 95 % interval over rounds; =: within {BAND[0]} to {BAND[1]}; ≈: not told apart"


def show_deployment(results: Results, console: Console) -> None:
    """Print the files of a study for each machine and number of threads that they were timed with; nothing, if none was."""
    rows = results.deployment()
    tables = by_machine(rows)
    for timed in tables:
        _table(console, timed)
    for line in servers(rows) if tables else ():
        console.print(Padding.indent(Text(line, style="dim"), 1))


def by_machine(rows: Iterable[Deployed]) -> list[list[Deployed]]:
    """Return the rows of trials that were timed, those of a model, a machine and a number of threads together."""
    groups: dict[tuple[object, ...], list[Deployed]] = {}
    for row in rows:
        if row.cpu is not None:
            groups.setdefault((row.model, *row.machine), []).append(row)
    return list(groups.values())


def _table(console: Console, rows: Sequence[Deployed]) -> None:
    columns = [
        Column("file\nMiB", [mib(row.file_mib) for row in rows]),
        Column("RAM\nMiB", [mib(row.resident_mib) for row in rows]),
        Column("load\ns", [fixed(row.load_seconds, 2) for row in rows]),
        Column("KL", [Effect(row.kl_nats).text() for row in rows]),
        Column("KL in\nllama.cpp", [Effect(row.runtime_kl_nats).text() for row in rows]),
    ]
    for phase, name in ((Phase.PREFILL, "prompt"), (Phase.DECODE, "output")):
        columns.append(Column(f"{name}\ntokens/s", [ratio(getattr(row, f"{phase}_rate")) for row in rows]))
        forms = [[speed_cell(row, phase, form) for row in rows] for form in Form]
        columns.append(Column(f"{name}\n× dense", forms[0], shorter=tuple(forms[1:])))
    console.print()
    console.print(Text.assemble(("Deployment", "bold"), f"  {rows[0].model}"))
    print_tables(console, "variant", [Text(row.variant) for row in rows], columns, indent=1)
    for remark in remarks(rows):
        console.print(Padding.indent(Text(remark, style="dim"), 1))


def speed_cell(row: Deployed, phase: Phase, form: Form = Form.WHOLE) -> Text:
    """Return how fast a file is against dense, as far as that is told."""
    verdict = getattr(row, f"{phase}_verdict")
    value, low, high = (getattr(row, f"{phase}_{end}") for end in ("ratio", "low", "high"))
    figure = Effect(value, low, high, no_change=1.0, prefix="×")
    match verdict:
        case SpeedVerdict.BUSY:
            return Text(BUSY, style="dim")
        case SpeedVerdict.SAME:
            return Text(f"= {figure.figure(form)}{figure.spread(form)}", style="dim")
    return figure.text(form)


class Front(StrEnum):
    """By what a file is held against its quality, which is its KL to dense."""

    SIZE = "MiB"
    PROMPT = "prompt tokens/s"
    OUTPUT = "output tokens/s"

    def of(self, row: Deployed) -> float | None:
        """Return the figure, of which less is better."""
        match self:
            case Front.SIZE:
                return row.file_mib
            case Front.PROMPT:
                return None if row.prefill_rate is None else -row.prefill_rate
        return None if row.decode_rate is None else -row.decode_rate


def front(rows: Iterable[Deployed], by: Front) -> set[str]:
    """Return the trials that no other one is at least as good as in both, and better in one."""
    places = {
        row.trial_id: (cost, 0.0 if row.variant == "dense" else row.kl_nats)
        for row in rows
        if (cost := by.of(row)) is not None
    }
    measured = {trial: (cost, kl) for trial, (cost, kl) in places.items() if kl is not None}
    return {
        trial
        for trial, (cost, kl) in measured.items()
        if not any(
            other_cost <= cost and other_kl <= kl and (other_cost, other_kl) != (cost, kl)
            for other_cost, other_kl in measured.values()
        )
    }


def remarks(rows: Sequence[Deployed]) -> Iterator[str]:
    """Yield what there is to know of files that were timed together."""
    first = rows[0]
    threads = f"{first.threads} thread" + ("s" if first.threads != 1 else "")
    yield (
        f"{first.cpu}, {threads}; {first.runtime} {first.build}; prompt of {first.prompt} tokens, {first.generate} generated; "
        "each file in a process of its own, read and not mapped"
    )
    for phase in Phase:
        low, high = (getattr(first, f"{phase}_itself_{end}") for end in ("low", "high"))
        if low is not None and high is not None:
            itself = f"{phase}, dense against itself: {low:.3f} to {high:.3f} in {first.rounds} rounds"
            busy = getattr(first, f"{phase}_verdict") == SpeedVerdict.BUSY or any(
                getattr(row, f"{phase}_verdict") == SpeedVerdict.BUSY for row in rows
            )
            yield f"{itself}: the machine was too busy for a verdict" if busy else itself
    yield SPEED_LEGEND
    for by in Front:
        best = front(rows, by)
        if len(best) > 1:
            names = ", ".join(row.variant for row in rows if row.trial_id in best)
            yield f"best KL for its {by}: {names}"
    for row in rows:
        if row.why_no_speed:
            yield f"{row.variant} was not timed: {row.why_no_speed}"


def servers(rows: Iterable[Deployed]) -> Iterator[str]:
    """Yield which trials a server does not load, and why."""
    why: dict[tuple[str, str], list[str]] = {}
    for row in {row.trial_id: row for row in rows}.values():
        for server, name in SERVERS.items():
            reason = getattr(row, server)
            if reason is not None and not reason.startswith(LOADS):
                why.setdefault((name, reason), []).append(row.variant)
        if row.why_no_file:
            why.setdefault(("llama.cpp", row.why_no_file), []).append(row.variant)
    for (name, reason), variants in why.items():
        yield f"{name} does not load {', '.join(dict.fromkeys(variants))}: {reason}"

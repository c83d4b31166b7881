"""What ``studyctl show STUDY TRIAL`` prints: a trial's size as it is deployed, and its figures."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from studyctl.contract.speed import Phase
from studyctl.report.deployment import SERVERS, speed_cell
from studyctl.report.effects import Effect, effect
from studyctl.report.layout import duration, fixed, mib, ratio
from studyctl.report.sizes import OF_PRUNED, is_pruned
from studyctl.store.results import Deployed, Standing


def show_trial(
    row: Standing, deployed: Sequence[Deployed], console: Console, *, note: str | None = None
) -> None:
    """Print a trial on lines of its own; any width from 40 characters on.

    Args:
        row: its row of the leaderboard.
        deployed: its rows of the view ``deployment``.
        console: where to print.
        note: what somebody wrote about it.
    """
    console.print(Text.assemble((row.trial_id, "bold"), f"  {row.model}  {row.state}"), soft_wrap=False)
    noted = [("note", note)] if note else []
    for name, text in (*noted, *_lines(row), *_deployment(deployed)):
        console.print(Padding.indent(Text(f"{name}: {text}"), 1))
    if is_pruned(row):
        console.print(Padding.indent(Text(OF_PRUNED), 1))


def _deployment(rows: Sequence[Deployed]) -> Iterator[tuple[str, str]]:
    """Yield how fast the file is on each machine, and which servers load the trial."""
    for row in rows:
        if row.why_no_speed:
            yield "not timed", row.why_no_speed
        elif row.cpu is not None:
            threads = f"{row.threads} thread" + ("s" if row.threads != 1 else "")
            phases = (
                f"{name} {ratio(getattr(row, f'{phase}_rate'))} tokens/s ({speed_cell(row, phase)} of dense)"
                if row.prefill_ratio is not None
                else f"{name} {ratio(getattr(row, f'{phase}_rate'))} tokens/s"
                for phase, name in ((Phase.PREFILL, "prompt"), (Phase.DECODE, "output"))
            )
            memory = f"{mib(row.resident_mib)} MiB of memory, loaded in {fixed(row.load_seconds, 2)} s"
            yield f"{row.runtime} with {threads} of {row.cpu}", f"{', '.join(phases)}; {memory}"
    for row in rows[:1]:
        if row.runtime_kl_nats is not None:
            yield "KL of the runtime's logits to dense", Effect(row.runtime_kl_nats).figure()
        for server, name in SERVERS.items():
            if reason := getattr(row, server):
                yield name, reason


def _lines(row: Standing) -> Iterator[tuple[str, str]]:
    if row.file_mib is not None:
        yield "GGUF file", f"{mib(row.file_mib)} MiB, {row.embedding_share:.0%} of it embeddings and head"
    else:
        yield (
            "GGUF file",
            row.why_no_file or "size not known: the weights are not made yet, or by an earlier version",
        )
    if row.size_mib is not None:
        yield "weights in an exported folder", f"{mib(row.size_mib)} MiB"
    if row.bits_per_weight is not None:
        yield "bits a weight of the blocks", fixed(row.bits_per_weight, 2).plain
    if row.sparsity:
        yield "zeros", f"{row.sparsity:.1%}"
    if row.variant != "dense":
        for name, figure, prefix in (
            ("perplexity to dense", "ppl_ratio", "×"), ("bits per byte to dense", "bits_per_byte_change", ""),
            ("KL to dense in nats", "kl_nats", ""), ("accuracy to dense", "acc_change", ""),
        ):  # fmt: skip
            if getattr(row, figure) is not None:
                yield name, str(effect(row, figure, prefix).text())
    if row.acc is not None:
        yield "accuracy", fixed(row.acc, 3).plain
    if row.total_seconds is not None:
        yield "time", duration(row.total_seconds).plain

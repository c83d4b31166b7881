"""What ``studyctl show STUDY TRIAL`` prints: a trial's size as it is deployed, and its figures."""

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from studyctl.report.effects import effect
from studyctl.report.layout import duration, fixed, mib
from studyctl.report.sizes import OF_PRUNED, is_pruned
from studyctl.store.results import Standing


def show_trial(row: Standing, console: Console) -> None:
    """Print a row of the leaderboard on lines of its own; any width from 40 characters on."""
    console.print(Text.assemble((row.trial_id, "bold"), f"  {row.model}  {row.state}"), soft_wrap=False)
    for name, text in _lines(row):
        console.print(Padding.indent(Text(f"{name}: {text}"), 1))
    if is_pruned(row):
        console.print(Padding.indent(Text(OF_PRUNED), 1))


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

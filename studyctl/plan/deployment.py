"""What is known of deployment before anything is made: grids that runtimes compute slowly, or not at all."""

from collections.abc import Iterable, Iterator

from studyctl.contract.methods import OnGguf, Quantization
from studyctl.contract.servers import marlin_gaps, stored_bits
from studyctl.errors import Problem
from studyctl.plan.variants import Variant
from studyctl.spec.loading import Document
from studyctl.spec.models import Model
from studyctl.spec.positions import Loc

NAMED = 3
"""Variants that a warning names."""


def check_deployment(document: Document, variants: Iterable[Variant]) -> Iterator[Problem]:
    """Yield a warning for variants that llama.cpp computes slowly, if files are timed, and for those that vLLM's GPU kernel does not take.

    The latter where the spec asks for files or folders: else nobody is about to deploy anything.
    """
    on_grids = [
        (variant, settings)
        for variant in variants
        if isinstance(settings := variant.settings, Quantization) and not isinstance(settings, OnGguf)
    ]
    slow = [variant for variant, settings in on_grids if not settings.symmetric and settings.bits <= 5]
    if slow and document.spec.evaluation.speed is not None:
        what = (
            f"{_named(slow)}: llama.cpp has asymmetric grids as Q4_1 and Q5_1, which process prompts more slowly than dense (0.6 times was "
            "measured) where symmetric ones are faster (1.8 times)"
        )
        yield _warning(document, what, slow, "symmetric = true")
    unfit = [
        variant
        for variant, settings in on_grids
        if not settings.symmetric and marlin_gaps(stored_bits(settings.bits), 0, symmetric=False)
    ]
    if unfit and (document.spec.evaluation.speed is not None or document.spec.execution.keep_weights):
        what = f"{_named(unfit)}: vLLM has no GPU kernel for zero points at 8 bits, in which a folder stores codes of 5 to 8"
        yield _warning(document, what, unfit, "symmetric = true, or at most 4 bits")


def check_dense_file(document: Document, loc: Loc, model: Model, dtype: str) -> Iterator[Problem]:
    """Yield a warning if files are timed and that of the dense model would have 32 bits, which nobody deploys."""
    if document.spec.evaluation.speed is not None and dtype == "float32":
        what = f"{model.short_name} is computed in float32 here, so its dense file has 32 bits a weight: others look faster against it"
        hint = 'dtype = "bfloat16" gives a file of 16 bits'
        yield document.problem(what, loc, hint=hint, severity="warning")


def _warning(document: Document, what: str, variants: list[Variant], hint: str) -> Problem:
    loc: Loc = variants[0].loc
    return document.problem(what, loc, hint=hint, severity="warning")


def _named(variants: list[Variant]) -> str:
    names = ", ".join(f"`{variant.name}`" for variant in variants[:NAMED])
    return names + (f" and {len(variants) - NAMED} more" if len(variants) > NAMED else "")

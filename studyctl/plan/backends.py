"""Variants that another package is to compress: what that package cannot do, and what this machine lacks for it."""

from collections.abc import Iterable, Iterator, Mapping

from studyctl.backends import OWN
from studyctl.backends.catalog import BACKENDS, GPU_SIZE_BYTES, refusals, runs_on
from studyctl.backends.environments import environment
from studyctl.errors import Problem
from studyctl.plan.variants import Variant
from studyctl.spec.loading import Document
from studyctl.spec.positions import Loc
from studyctl.units import bytes_text


def check_backends(document: Document, variants: Iterable[Variant]) -> Iterator[Problem]:
    """Yield a problem for every option, value or method that a backend does not have, at its place in the spec."""
    for variant in variants:
        if variant.backend == OWN:
            continue
        for option, what, hint in refusals(variant.backend, variant.settings):
            value = variant.backend if option == "backend" else getattr(variant.settings, option)
            yield document.problem(what, _place(document, variant, option, value), hint=hint)


def _place(document: Document, variant: Variant, option: str, value: object) -> Loc:
    """Return where the value is, also within a list of several."""
    _, index = variant.loc
    table = document.spec.compression[int(index)]
    values: tuple[object, ...] = getattr(table, option)
    if option not in table.model_fields_set:
        return variant.loc
    return (*variant.loc, option, values.index(value)) if value in values else (*variant.loc, option)


def missing_here(variants: Iterable[Variant], devices: Iterable[str]) -> Mapping[str, str]:
    """Return the names of variants that cannot be made on this machine now, each with what is missing.

    Args:
        variants: of the plan.
        devices: that the study runs on.
    """
    states = {
        name: environment(BACKENDS[name]).state for name in {variant.backend for variant in variants} - {OWN}
    }
    missing = {}
    for variant in variants:
        if variant.backend == OWN:
            continue
        elsewhere = [device for device in devices if not runs_on(variant.backend, variant.settings, device)]
        if elsewhere:
            what = f"backend `{variant.backend}` needs a CUDA device for {variant.method}, and the study runs on {elsewhere[0]}"
        elif states[variant.backend] != "synced":
            what = _not_synced(variant.backend, states[variant.backend])
        else:
            continue
        missing[variant.name] = what
    return missing


def _not_synced(name: str, state: str) -> str:
    size = BACKENDS[name].size_bytes
    how = {"outdated": "is of other versions", "unfinished": "is not finished"}.get(state, "is not there")
    return (
        f"the environment of backend `{name}` {how}: `studyctl backends sync {name}` makes it "
        f"({bytes_text(size)} with torch for a CPU, {bytes_text(GPU_SIZE_BYTES)} for a GPU)"
    )

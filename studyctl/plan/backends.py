"""Variants that another package compresses: what that package cannot do, and what is missing for it on this machine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from studyctl.backends import OWN
from studyctl.backends.catalog import BACKENDS, GPU_SIZE_BYTES, refusals, runs_on
from studyctl.backends.environments import environment
from studyctl.contract.methods import Gguf
from studyctl.errors import Problem
from studyctl.plan.variants import Variant
from studyctl.spec.loading import Document
from studyctl.units import bytes_text


def check_backends(document: Document, variants: Iterable[Variant]) -> Iterator[Problem]:
    """Yield a problem for every option, value or method that a backend does not support, at its place in the spec."""
    for variant in variants:
        for option, what, hint in (
            refusals(variant.backend, variant.settings) if variant.backend != OWN else ()
        ):
            value = variant.backend if option == "backend" else getattr(variant.settings, option)
            yield document.problem(what, variant.place_of(document, option, value), hint=hint)


def missing_here(variants: Sequence[Variant], devices: Iterable[str]) -> Mapping[str, str]:
    """Return the variants that cannot be made on this machine now: by name, what is missing.

    Args:
        variants: those of the plan.
        devices: those that the study runs on.
    """
    others = [variant for variant in variants if variant.backend != OWN]
    by_llama = [variant.name for variant in variants if isinstance(variant.settings, Gguf)]
    missing = dict.fromkeys(by_llama, _without_llama()) if by_llama and _without_llama() else {}
    not_synced = {name: _not_synced(name) for name in {variant.backend for variant in others}}
    for variant in others:
        name, method = variant.backend, variant.method
        unsuited = (device for device in devices if not runs_on(name, variant.settings, device))
        if (device := next(unsuited, None)) is not None:
            missing[variant.name] = (
                f"backend `{name}` needs a CUDA device for {method}, and the study runs on {device}"
            )
        elif not_synced[name]:
            missing[variant.name] = not_synced[name]
    return missing


def _without_llama() -> str:
    """Return that llama.cpp's library is not here; an empty string if it is."""
    from studyctl import llama  # only one method needs the library, and numpy

    return "" if llama.build() is not None else f"llama.cpp's library is not here: {llama.INSTALL}"


def _not_synced(name: str) -> str:
    """Return why the environment of a backend cannot be used; an empty string if it can."""
    backend = BACKENDS[name]
    if (state := environment(backend).state) == "synced":
        return ""
    how = {"outdated": "has other versions", "unfinished": "is not finished"}.get(state, "does not exist")
    return (
        f"the environment of backend `{name}` {how}: `studyctl backends sync {name}` makes it "
        f"({bytes_text(backend.size_bytes)} with torch for a CPU, {bytes_text(GPU_SIZE_BYTES)} for a GPU)"
    )

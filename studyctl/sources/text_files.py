"""The identity of a text, and reading it from local files. Texts of the hub are read by :mod:`studyctl.sources.texts`."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from importlib import resources
from pathlib import Path

from studyctl.contract.identity import Purpose, TextIdentity
from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.hashes import identify_file, remembered
from studyctl.spec.models import BUNDLED_TEXTS, TextSource
from studyctl.units import bytes_text

NAMED = 6
"""Files or folders that are named in place of one that is missing."""
FORMATS = (".jsonl", ".txt", ".jsonl.gz", ".txt.gz", ".parquet")
MOST_UNPACKED = 8 << 30
"""Bytes of a compressed text."""
_NULLS = 0.05
"""Fraction of NUL bytes above which a file is no text in UTF-8."""
_SET_FIELD = 'set `field` of the text source, or of one language: de = { file = "…", field = "…" }'
_CODE = 1
"""Raised when the same files give another text."""


def identify_text(
    name: str, source: TextSource | None, purpose: Purpose, language: str, base: Path
) -> TextIdentity:
    """Return the identity of the text of a language.

    Args:
        name: of the source.
        source: its table; None for a bundled text.
        purpose: what the text is for.
        language: the language.
        base: folder that relative paths are resolved against.

    Raises:
        StudyError: there is no text for this language or purpose, or it is empty, not UTF-8, or malformed.
    """
    if source is None:
        return _identify_files(name, purpose, language, [_bundled(name, purpose, language)], "text")
    if source.files is not None:
        entry = source.file_of(purpose, language)
        if entry is None:
            raise StudyError(f"text source `{name}` has no files for {purpose} in `{language}`")
        file = Path(entry.file).expanduser()
        path = base / file
        if not (paths := _matching(file, base)):
            where = f"`{path}` is a folder" if path.is_dir() else f"no file `{path}`"
            what = f"text source `{name}` has no {purpose} text for language `{language}`: {where}"
            raise StudyError(what, hint=_pattern(path, entry.file) + nearby(path))
        # Plain text has no field, so that of the entry does not change the key.
        is_plain = all(path.name.lower().endswith((".txt", ".txt.gz")) for path in paths)
        field = source.field if is_plain or entry.field is None else entry.field
        return _identify_files(name, purpose, language, paths, field)
    return _identify_dataset(name, source, purpose, language)


def _matching(file: Path, base: Path) -> list[Path]:
    """Return the file of this name, or those that match it as a pattern, sorted; ``base`` may have brackets in its name."""
    if (base / file).is_file():
        return [base / file]
    names = glob(str(file), root_dir=base, recursive=True) if has_magic(str(file)) else ()
    return sorted(path for name in names if (path := base / name).is_file())


def _pattern(path: Path, written: str) -> str:
    """Return what to write in place of a folder with texts; empty for anything else."""
    suffixes = map(_suffix, sorted(path.iterdir())) if path.is_dir() else ()
    suffix = next((suffix for suffix in suffixes if suffix in FORMATS), "")
    return f"write `{written.rstrip('/')}/*{suffix}`; " if suffix else ""


def nearby(path: Path) -> str:
    """Return what is there: in a folder, or where a file or folder is missing."""
    folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    shown = ", ".join(f"`{name}`" for name in names[:NAMED]) + (" …" if len(names) > NAMED else "")
    return f"`{folder}` has {shown}" if names else f"`{folder}` is empty"


def _bundled(name: str, purpose: Purpose, language: str) -> Path:
    if name not in BUNDLED_TEXTS:
        raise StudyError(f"there is no text source `{name}`", hint=f"bundled: {', '.join(BUNDLED_TEXTS)}")
    # Package data are files: studyctl does not run from a zip archive.
    folder = Path(str(resources.files("studyctl") / name / "text" / purpose))
    path = folder / f"{language}.jsonl"
    if not path.is_file():
        languages = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        raise StudyError(
            f"the bundled text `{name}` has no {purpose} text for language `{language}`",
            hint=f"it has {languages}",
        )
    return path


def _identify_files(
    name: str, purpose: Purpose, language: str, paths: Sequence[Path], field: str
) -> TextIdentity:
    sizes = [
        remembered(path, f"text bytes of {field}, {_CODE}", lambda file: _text_bytes(file, field))
        for path in paths
    ]
    if not any(sizes):
        where = f"`{paths[0].absolute()}`" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        raise StudyError(f"text source `{name}`: {where} ({purpose}, language `{language}`) is empty")
    files = tuple(identify_file(path.absolute()) for path in paths)
    contents = [[file.sha256, _suffix(path)] for file, path in zip(files, paths, strict=True)]
    parts = ["file", *contents[0], field, _CODE] if len(files) == 1 else ["files", contents, field, _CODE]
    size = sum(sizes) + len(sizes) - 1  # a newline between two
    return TextIdentity(name, purpose, language, digest(parts), bytes=size, files=files, field=field)


def _suffix(path: Path) -> str:
    """Return the format of a file by its name, with ``.gz`` if it is compressed."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix == ".gz" else suffix


def _identify_dataset(name: str, source: TextSource, purpose: Purpose, language: str) -> TextIdentity:
    # Imported here: a study of local texts starts a quarter of a second sooner without it.
    from studyctl.sources import hub

    assert source.dataset is not None  # files or dataset, by the spec
    config = source.config if isinstance(source.config, str | None) else source.config.get(language)
    if config is None and source.config is not None:
        raise StudyError(f"text source `{name}` has no config for language `{language}`")
    split = source.split if isinstance(source.split, str) else source.split.get(purpose)
    if split is None:
        raise StudyError(f"text source `{name}` has no split for {purpose}")
    try:
        revision = hub.resolve("dataset", source.dataset, source.revision)
    except hub.HubUnreachable as error:
        return TextIdentity(name, purpose, language, None, unknown=str(error))
    return TextIdentity(
        name,
        purpose,
        language,
        key=digest(["dataset", source.dataset, revision.commit, config, split, source.field, _CODE]),
        field=source.field,
        dataset=source.dataset,
        config=config,
        split=split,
        commit=revision.commit,
        note=revision.note,
    )


def documents_of(data: bytes, path: Path, field: str) -> list[str]:
    """Return the documents of a file: its rows; all of a ``.txt`` file is one.

    Args:
        data: the file's bytes.
        path: its name, which says what format it is in.
        field: the field or column that holds the text.

    Raises:
        StudyError: it is not UTF-8, a line is no JSON object or has no such field, or the format is unknown.
    """
    suffix = _suffix(path)
    if suffix in (".txt.gz", ".jsonl.gz"):
        suffix, data = suffix.removesuffix(".gz"), _unpacked(data, path)
    if suffix == ".parquet":
        return _parquet_documents(data, path, field)
    if suffix == ".txt":
        return ["\n".join(_lines(data, path))]
    if suffix != ".jsonl":
        hint = "texts are .jsonl and .txt files, also with .gz, and .parquet files"
        raise StudyError(f"`{path}` has an unknown format", hint=hint)
    documents = []
    for place, item in json_objects(data, path, hint=f'a line reads {{"{field}": "..."}}'):
        if not isinstance(item.get(field), str):
            raise _no_text(place, item, field)
        documents.append(str(item[field]))
    return documents


def _no_text(place: str, item: dict[str, object], field: str) -> StudyError:
    """Return the error of a row that has no such field, or something else than text in it."""
    if field not in item:
        fields = ", ".join(f"`{key}`" for key in item) or "nothing"
        what = f"`{place}` has no text in field `{field}`"
        return StudyError(what, hint=f"it has {fields}; {_SET_FIELD}")
    value = item[field]
    kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else ""
    texts = ", ".join(f"`{key}`" for key, other in item.items() if isinstance(other, str))
    if texts:
        hint = f"{texts} holds text; {_SET_FIELD}"
    elif value is None:
        hint = "remove the line"
    else:
        hint = "write one text in its place" if kind else "write it in quotes"
    what = f"field `{field}` of `{place}` holds {kind or json.dumps(value)}, not text"
    return StudyError(what, hint=hint)


def _unpacked(data: bytes, path: Path) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = file.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"`{path}` is no gzip file, or is cut short: {error}") from error
    if len(text) > MOST_UNPACKED:
        raise StudyError(f"`{path}` has more than {bytes_text(MOST_UNPACKED)} when it is unpacked")
    return text


def count_json_lines(path: Path) -> int:
    """Return the number of JSON objects in a file, one per line.

    Raises:
        StudyError: it is not UTF-8, or a line is no JSON object.
    """
    return len(list(json_objects(path.read_bytes(), path, hint="an item is one JSON object a line")))


def _text_bytes(path: Path, field: str) -> int:
    try:
        return len("\n".join(documents_of(path.read_bytes(), path, field)).encode())
    except UnicodeEncodeError as error:
        raise StudyError(
            f"`{path}` holds half a character (the lone surrogate {error.object[error.start]!a})",
            hint="JSON writes such a character as a pair of \\u escapes",
        ) from error


def _lines(data: bytes, path: Path) -> list[str]:
    if (nulls := data.count(b"\0")) > _NULLS * len(
        data
    ):  # ASCII as UTF-16 is UTF-8 as well, with a NUL before each letter
        raise StudyError(
            f"`{path}` is not UTF-8: {nulls:,} of its {len(data):,} bytes are NUL, as in UTF-16",
            hint="save the file as UTF-8",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise StudyError(
            f"`{path}:{line}` is not UTF-8 (byte {error.start})", hint="save the file as UTF-8"
        ) from error
    # Lines as in a file opened in text mode; str.splitlines would also cut at U+2028 and others that belong to the text.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def json_objects(data: bytes, path: Path, hint: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every JSON object of a file, one per line, with its place; empty lines are skipped."""
    for number, line in enumerate(_lines(data, path), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            item = json.loads(line)
        except ValueError as error:
            raise StudyError(f"`{place}` is no JSON: {error}", hint=hint) from error
        if not isinstance(item, dict):
            raise StudyError(f"`{place}` is no JSON object", hint=hint)
        yield place, item


def _parquet_documents(data: bytes, path: Path, field: str) -> list[str]:
    import pyarrow as pa  # 0.1 s, and few texts are Parquet files
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if field not in file.schema_arrow.names:
            columns = ", ".join(f"`{name}`" for name in file.schema_arrow.names)
            raise StudyError(f"`{path}` has no column `{field}`", hint=f"it has {columns}; {_SET_FIELD}")
        values: list[str] = file.read(columns=[field]).column(0).to_pylist()
    except pa.ArrowInvalid as error:
        raise StudyError(f"`{path}` is no Parquet file: {error}") from error
    if not all(isinstance(value, str) for value in values):
        raise StudyError(f"column `{field}` of `{path}` holds something else than text")
    return values

"""Reading the text that an identity names: local files whole, hub datasets only as far as needed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studyctl.contract.identity import TextIdentity
from studyctl.errors import StepError
from studyctl.files import cache_folder, write_atomic
from studyctl.sources.text_files import documents_of
from studyctl.sources.verified import read_verified


class Documents:
    """The documents of a hub dataset, streamed in order and kept in the user's cache as far as they were taken."""

    def __init__(self, text: TextIdentity) -> None:
        assert text.key is not None
        assert text.dataset is not None
        self._text = text
        self._taken, self.complete = _read_cached(self._cache)
        self._stream: Iterator[str] | None = None

    def first(self, count: int) -> list[str]:
        """Return the first ``count`` documents (0: all), or as many as there are; then ``complete`` is true.

        Raises:
            StepError: the dataset cannot be read.
        """
        enough = self.complete or 0 < count <= len(self._taken)
        if not enough:
            self._take(count)
            lines = [
                json.dumps({"complete": self.complete}),
                *(json.dumps(document) for document in self._taken),
            ]
            write_atomic(self._cache, "\n".join(lines))
        return self._taken[:count] if count else self._taken

    @property
    def _cache(self) -> Path:
        return cache_folder() / "texts" / f"{self._text.key}.jsonl"

    def _take(self, count: int) -> None:
        if self._stream is None:
            self._stream = _stream(self._text, skip=len(self._taken))
        try:
            while count == 0 or len(self._taken) < count:
                document = next(self._stream, None)
                if document is None:
                    self.complete = True
                    return
                self._taken.append(document)
        except (OSError, ValueError) as error:
            raise _unreadable(self._text, error) from error


def _stream(text: TextIdentity, skip: int) -> Iterator[str]:
    import datasets  # seconds of import that local files need not wait for

    rows: Any = datasets.load_dataset(
        text.dataset, text.config, split=text.split, revision=text.commit, streaming=True
    )
    for row in rows.skip(skip):
        if not isinstance(row.get(text.field), str):
            there = ", ".join(f"`{name}`" for name in row)
            raise StepError(
                f"dataset `{text.dataset}` has no text in column `{text.field}`",
                hint=f"it has {there}; set `field` of text source `{text.name}`",
            )
        yield row[text.field]


def _unreadable(text: TextIdentity, error: Exception) -> StepError:
    where = ", ".join(part for part in (text.config, text.split) if part)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StepError(
        f"dataset `{text.dataset}` ({where}) cannot be read: {reason}",
        hint="with a connection, `studyctl prefetch` takes what a study needs into the cache",
    )


def _read_cached(path: Path) -> tuple[list[str], bool]:
    if not path.is_file():
        return [], False
    head, *documents = [json.loads(line) for line in path.read_text("utf-8").split("\n")]
    return documents, bool(head["complete"])


def read_documents(text: TextIdentity, first: int = 0) -> list[str]:
    """Return the documents of a text; joined by newlines they are the text.

    Args:
        text: what it was found to be when the study was planned.
        first: of a hub dataset, how many to take from the beginning; 0: all.

    Raises:
        StudyError: the file or dataset cannot be read, or the file changed since.
    """
    if text.file is not None:
        return documents_of(read_verified(text.file, str(text)), text.file.path, text.field)
    return Documents(text).first(first)

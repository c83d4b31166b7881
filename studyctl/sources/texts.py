"""Reading a text by its identity: local files whole, hub datasets only as far as needed."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from studyctl.contract.identity import TextIdentity
from studyctl.errors import StepError
from studyctl.files import cache_entry, write_cache
from studyctl.sources.text_files import documents_of
from studyctl.sources.verified import read_verified


class Documents:
    """The documents of a hub dataset, streamed in order as far as needed, and kept in the user's cache."""

    def __init__(self, text: TextIdentity) -> None:
        self._text = text
        self._cache = cache_entry("texts", f"{text.key}.jsonl")
        self._documents: list[str] = []
        self._stream: Iterator[str] | None = None
        self.complete = False
        """Whether these are all documents of the dataset."""
        if self._cache.is_file():
            head, *self._documents = map(json.loads, self._cache.read_text("utf-8").split("\n"))
            self.complete = head["complete"]

    def first(self, count: int) -> list[str]:
        """Return the first ``count`` documents (0: all), or as many as there are; then ``complete`` is true.

        Raises:
            StepError: the dataset cannot be read.
        """
        missing = count - len(self._documents) if count else None
        if not self.complete and (missing is None or missing > 0):
            try:
                self._stream = self._stream or _stream(self._text, skip=len(self._documents))
                more = list(islice(self._stream, missing))
            except (OSError, ValueError) as error:
                where = ", ".join(part for part in (self._text.config, self._text.split) if part)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise StepError(
                    f"dataset `{self._text.dataset}` ({where}) cannot be read: {reason}",
                    hint="with a connection, `studyctl prefetch` puts what a study needs into the cache",
                ) from error
            self._documents += more
            self.complete = missing is None or len(more) < missing
            lines = ({"complete": self.complete}, *self._documents)
            write_cache(self._cache, "\n".join(map(json.dumps, lines)))
        return self._documents[:count] if count else self._documents


def _stream(text: TextIdentity, skip: int) -> Iterator[str]:
    import datasets  # takes seconds, and local files do not need it

    rows: Any = datasets.load_dataset(
        text.dataset, text.config, split=text.split, revision=text.commit, streaming=True
    )
    for row in rows.skip(skip):
        if not isinstance(row.get(text.field), str):
            columns = ", ".join(f"`{name}`" for name in row)
            raise StepError(
                f"dataset `{text.dataset}` has no text in column `{text.field}`",
                hint=f"it has {columns}; set `field` of text source `{text.name}`",
            )
        yield row[text.field]


def read_documents(text: TextIdentity, first: int = 0) -> list[str]:
    """Return the documents of a text; joined by newlines they are the text.

    Args:
        text: as it was planned.
        first: of a hub dataset, how many to read from the beginning; 0: all.

    Raises:
        StudyError: the file or dataset cannot be read, or the file changed since it was planned.
    """
    if text.files:
        return [
            document
            for file in text.files
            for document in documents_of(read_verified(file, str(text)), file.path, text.field)
        ]
    return Documents(text).first(first)

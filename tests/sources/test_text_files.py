import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studyctl.contract.identity import TextIdentity
from studyctl.errors import StudyError
from studyctl.sources.hashes import identify_file
from studyctl.sources.text_files import documents_of, identify_text
from studyctl.sources.texts import read_documents
from studyctl.spec.models import TextSource

SOURCE = TextSource(files={"calibration": "{language}/train.jsonl", "perplexity": "{language}/test.jsonl"})


def identify(base: Path, source: TextSource | None = SOURCE, language: str = "en") -> TextIdentity:
    return identify_text("mine", source, "perplexity", language, base)


def read_file(path: Path, field: str) -> str:
    return "\n".join(documents_of(path.read_bytes(), path, field))


def refusal(base: Path, source: TextSource = SOURCE, language: str = "en") -> str:
    with pytest.raises(StudyError) as caught:
        identify(base, source, language)
    return " | ".join(f"{problem.what} {problem.hint}" for problem in caught.value.problems)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "en" / "test.jsonl"
    path.parent.mkdir()
    path.write_text('{"text": "één"}\n\n{"text": "two\\nlines"}\n', "utf-8")
    return path


def test_documents_are_joined_by_newlines_and_counted_in_utf8_bytes(path: Path, tmp_path: Path) -> None:
    assert read_file(path, "text") == "één\ntwo\nlines"
    identity = identify(tmp_path)
    assert identity.bytes == len("één\ntwo\nlines".encode())
    assert identity.files == (identify_file(path),)
    assert (identity.language, identity.purpose) == ("en", "perplexity")


def test_the_key_is_of_content_and_field_not_of_name_or_place(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "sw" / "test.jsonl"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    before = identify(tmp_path).key
    assert identify(tmp_path, language="sw").key == before
    path.write_text('{"text": "other"}\n')
    assert identify(tmp_path).key != before


@pytest.fixture
def unlike(tmp_path: Path) -> Path:
    """A text in two languages, under the name of another field in each, and plain text in a third."""
    (tmp_path / "en.jsonl").write_text('{"text": "one", "body": "two"}\n')
    (tmp_path / "de.jsonl").write_text('{"body": "zwei"}\n')
    (tmp_path / "sw.txt").write_text("mbili")
    return tmp_path


def in_languages(entry: str | dict[str, str], field: str = "text", language: str = "de") -> TextSource:
    return TextSource.model_validate({"files": {"perplexity": {language: entry}}, "field": field})


def test_a_language_has_a_field_of_its_own(unlike: Path) -> None:
    source = in_languages({"file": "{language}.jsonl", "field": "body"})
    identity = identify(unlike, source, "de")
    assert identity.field == "body"
    assert read_documents(identity) == ["zwei"]
    assert "`body`; set `field` of the text source, or of one language" in refusal(
        unlike, in_languages("de.jsonl"), "de"
    )


def test_the_key_changes_only_where_a_field_changes_what_is_read(unlike: Path) -> None:
    def key(entry: str | dict[str, str], field: str = "text", language: str = "en") -> str | None:
        return identify(unlike, in_languages(entry, field, language), language).key

    assert key({"file": "en.jsonl"}) == key("en.jsonl") == key({"file": "en.jsonl", "field": "text"}, "body")
    assert key({"file": "en.jsonl", "field": "body"}) == key("en.jsonl", "body") != key("en.jsonl")
    assert key({"file": "sw.txt", "field": "body"}, language="sw") == key("sw.txt", language="sw")


def test_plain_text_is_taken_as_it_is_without_its_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("first\r\nsecond\u2028same line\n\nlast\n".encode())
    assert read_file(path, "text") == "first\nsecond\u2028same line\n\nlast"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfhello")
    assert read_file(path, "text") == "hello"


def test_a_parquet_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one", "two"], "n": [1, 2]}), path)
    assert read_file(path, "body") == "one\ntwo"
    with pytest.raises(StudyError, match="no column `text`"):
        read_file(path, "text")
    with pytest.raises(StudyError, match="something else than text"):
        read_file(path, "n")


@pytest.mark.parametrize(
    ("row", "what", "hint"),
    [
        ('{"text": null}', "field `text` of `{place}` holds null, not text", "remove the line"),
        ('{"text": 3.5}', "field `text` of `{place}` holds 3.5, not text", "write it in quotes"),
        ('{"text": ["a"], "b": "c"}', "field `text` of `{place}` holds a list, not text", "`b` holds text; set `field`"),
        ('{"text": {"a": 1}}', "field `text` of `{place}` holds an object, not text", "write one text in its place"),
        ('{"body": "a"}', "`{place}` has no text in field `text`", "it has `body`; set `field`"),
    ],
)  # fmt: skip
def test_a_row_without_text_says_what_it_has(tmp_path: Path, row: str, what: str, hint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{row}\n')
    with pytest.raises(StudyError) as caught:
        read_file(path, "text")
    (problem,) = caught.value.problems
    assert problem.what == what.replace("{place}", f"{path}:2")
    assert problem.hint.startswith(hint)


def test_one_file_for_all_languages(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("text")
    assert identify(tmp_path, TextSource(files="all.txt")).bytes == 4


def test_a_missing_language_names_the_file_and_the_language(path: Path, tmp_path: Path) -> None:
    message = refusal(tmp_path, language="de")
    assert "language `de`" in message
    assert str(tmp_path / "de" / "test.jsonl") in message


def test_no_files_for_a_purpose(tmp_path: Path) -> None:
    assert "no files for perplexity" in refusal(tmp_path, TextSource(files={"calibration": "x.txt"}))


@pytest.mark.parametrize("content", ["", "\n", '{"text": ""}\n'])
def test_an_empty_text(path: Path, tmp_path: Path, content: str) -> None:
    path.write_text(content)
    assert "is empty" in refusal(tmp_path)


def test_a_line_that_is_no_json_is_named(path: Path, tmp_path: Path) -> None:
    path.write_text('{"text": "a"}\n{"text": \n')
    assert f"`{path}:2` is no JSON" in refusal(tmp_path)


def test_a_line_that_is_no_object_is_named(path: Path, tmp_path: Path) -> None:
    path.write_text('{"text": "a"}\n["a"]\n')
    assert f"`{path}:2` is no JSON object" in refusal(tmp_path)


def test_a_line_without_the_field_is_named_with_the_fields_it_has(path: Path, tmp_path: Path) -> None:
    path.write_text('{"text": "a"}\n{"body": "b", "id": 1}\n')
    assert f"`{path}:2` has no text in field `text` it has `body`, `id`" in refusal(tmp_path)


def test_a_file_that_is_not_utf8_names_the_line(path: Path, tmp_path: Path) -> None:
    path.write_bytes('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"))
    assert f"`{path}:2` is not UTF-8" in refusal(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_not_utf8_even_where_it_could_be_read_as_such(
    path: Path, tmp_path: Path, encoding: str
) -> None:
    path.write_bytes('{"text": "only ASCII"}\n'.encode(encoding))
    assert "bytes are NUL, as in UTF-16" in refusal(tmp_path)


def test_a_nul_in_a_long_text_is_a_character_like_others() -> None:
    text = "a" * 100 + "\0" + "b" * 100
    assert documents_of(text.encode(), Path("long.txt"), "text") == [text]


def test_half_a_character_is_no_text(path: Path, tmp_path: Path) -> None:
    path.write_text(json.dumps({"text": "a\ud800"}))
    assert "half a character" in refusal(tmp_path)


def test_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    assert "has an unknown format" in refusal(tmp_path, TextSource(files="a.pdf"))


def test_a_dataset_without_config_for_the_language(tmp_path: Path) -> None:
    source = TextSource(dataset="org/text", config={"en": "en"})
    assert "no config for language `sw`" in refusal(tmp_path, source, "sw")


def test_a_dataset_without_split_for_the_purpose(tmp_path: Path) -> None:
    source = TextSource(dataset="org/text", split={"calibration": "train"})
    assert "no split for perplexity" in refusal(tmp_path, source)


def test_the_bundled_text(tmp_path: Path) -> None:
    identity = identify_text("pocket", None, "perplexity", "en", tmp_path)
    assert identity.key is not None
    assert identity.bytes is not None
    with pytest.raises(StudyError) as caught:
        identify_text("pocket", None, "perplexity", "xx", tmp_path)
    assert "language `xx`" in caught.value.problems[0].what
    assert "en" in caught.value.problems[0].hint


def test_a_text_source_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no text source `nowhere`"):
        identify_text("nowhere", None, "perplexity", "en", tmp_path)


@pytest.mark.real
def test_real_texts_have_the_bytes_that_their_readme_says(real: Path) -> None:
    source = TextSource(files="corpus/{language}/test.jsonl")
    identity = identify_text("mine", source, "perplexity", "sw", real)
    assert identity.bytes == 193_438 + 82, "the README counts no newlines between its 83 lines"


class TestSeveralFiles:
    """A table of languages, patterns, mixed and compressed formats."""

    SOURCE = TextSource(
        files={
            "calibration": {"ar": "ar/*.txt", "de": "de.jsonl", "sw": "sw.jsonl.gz"},
            "perplexity": "{language}/test.txt",
        }
    )

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "texts [2]"  # no pattern, though it looks like one
        (folder / "ar").mkdir(parents=True)
        for name, text in (("b.txt", "zwei\n"), ("a.txt", "eins\n"), ("test.md", "not a text")):
            (folder / "ar" / name).write_text(text)
        (folder / "de.jsonl").write_text('{"text": "drei"}\n')
        (folder / "sw.jsonl.gz").write_bytes(gzip.compress(b'{"text": "vier"}\n{"text": "f\xc3\xbcnf"}\n'))
        return folder

    def text(self, folder: Path, language: str) -> TextIdentity:
        return identify_text("mine", self.SOURCE, "calibration", language, folder)

    def test_each_language_has_files_of_its_own(self, folder: Path) -> None:
        read = {language: read_documents(self.text(folder, language)) for language in ("ar", "de", "sw")}
        assert read == {"ar": ["eins", "zwei"], "de": ["drei"], "sw": ["vier", "fünf"]}
        assert {language: self.text(folder, language).bytes for language in read} == {
            "ar": 9,
            "de": 4,
            "sw": 10,
        }

    def test_files_are_in_the_order_of_their_names_and_all_count(self, folder: Path) -> None:
        before = self.text(folder, "ar")
        assert [file.path.name for file in before.files] == ["a.txt", "b.txt"]
        (folder / "ar" / "c.txt").write_text("drei\n")
        after = self.text(folder, "ar")
        assert after.key != before.key
        assert after.bytes == 14

    def test_a_pattern_for_one_file_is_the_same_text_as_the_file(self, folder: Path) -> None:
        (folder / "ar" / "b.txt").unlink()
        named = TextSource(files="ar/a.txt")
        assert self.text(folder, "ar").key == identify_text("mine", named, "calibration", "ar", folder).key

    def test_a_file_whose_name_looks_like_a_pattern_is_a_file(self, folder: Path) -> None:
        (folder / "a[1].txt").write_text("fünf")
        text = identify_text("mine", TextSource(files="a[1].txt"), "calibration", "de", folder)
        assert read_documents(text) == ["fünf"]

    def test_files_below_folders(self, folder: Path) -> None:
        (folder / "ar" / "deep").mkdir()
        (folder / "ar" / "deep" / "x.txt").write_text("sechs")
        text = identify_text("mine", TextSource(files="ar/**/*.txt"), "calibration", "ar", folder)
        assert [file.path.name for file in text.files] == ["a.txt", "b.txt", "x.txt"]

    def test_what_is_there_is_named_where_a_file_is_missing(self, folder: Path) -> None:
        with pytest.raises(StudyError, match="no perplexity text for language `ar`") as caught:
            identify_text("mine", self.SOURCE, "perplexity", "ar", folder)
        assert caught.value.problems[0].hint == f"`{folder / 'ar'}` has `a.txt`, `b.txt`, `test.md`"
        with pytest.raises(StudyError, match="no files for calibration in `zh`"):
            self.text(folder, "zh")

    def test_a_folder_in_place_of_files_is_said_to_be_one(self, folder: Path) -> None:
        with pytest.raises(StudyError) as caught:
            identify_text("mine", TextSource(files="./{language}/"), "perplexity", "ar", folder)
        (problem,) = caught.value.problems
        assert problem.what == (
            f"text source `mine` has no perplexity text for language `ar`: `{folder / 'ar'}` is a folder"
        )
        assert problem.hint == f"write `./ar/*.txt`; `{folder / 'ar'}` has `a.txt`, `b.txt`, `test.md`"

    def test_a_folder_without_texts_gets_no_pattern(self, folder: Path) -> None:
        (folder / "ru").mkdir()
        with pytest.raises(StudyError) as caught:
            identify_text("mine", TextSource(files="{language}"), "perplexity", "ru", folder)
        assert caught.value.problems[0].hint == f"`{folder / 'ru'}` is empty"

    def test_a_compressed_file_that_is_cut_short_is_an_error(self, folder: Path) -> None:
        path = folder / "sw.jsonl.gz"
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(StudyError, match="is no gzip file, or is cut short"):
            self.text(folder, "sw")

    def test_a_file_that_changed_since_it_was_planned_is_an_error(self, folder: Path) -> None:
        text = self.text(folder, "ar")
        (folder / "ar" / "b.txt").write_text("another text")
        with pytest.raises(StudyError, match="changed"):
            read_documents(text)

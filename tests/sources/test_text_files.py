import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studyctl.contract.identity import TextIdentity
from studyctl.errors import StudyError
from studyctl.sources.hashes import identify_file
from studyctl.sources.text_files import documents_of, identify_text
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
    assert identity.file == identify_file(path)
    assert (identity.language, identity.purpose) == ("en", "perplexity")


def test_the_key_is_of_content_and_field_not_of_name_or_place(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "sw" / "test.jsonl"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    before = identify(tmp_path).key
    assert identify(tmp_path, language="sw").key == before
    path.write_text('{"text": "other"}\n')
    assert identify(tmp_path).key != before


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

"""A spec as a file that is edited: bytes that stay, changes of others that are never lost."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import SpecError, StudyError
from studyctl.spec.bundled import bundled_folder
from studyctl.spec.editing import (
    LARGEST_BYTES,
    ChangedElsewhereError,
    Loaded,
    as_drawn,
    as_shown,
    changed_elsewhere,
    encoded,
    load,
    save,
)
from studyctl.spec.loading import parse_spec

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(0x10F000, 0x10F100))))
)


def loaded(data: bytes) -> Loaded:
    return Loaded(Path("mine.toml"), as_shown(data.decode("utf-8-sig")), data)


@given(TEXTS | st.text("a\r\n\x0b\x85\u2028\ufeff"), st.booleans())
def test_what_was_not_edited_is_written_as_it_was(text: str, mark: bool) -> None:
    data = b"\xef\xbb\xbf" * mark + text.encode()
    file = loaded(data)
    if not data.startswith(b"\xef\xbb\xbf\xef\xbb\xbf"):
        edited = encoded(file.text + "#", file)
        assert edited == data + b"#"
    assert encoded(file.text, file) == data


@given(TEXTS)
def test_an_editor_gets_lines_that_only_a_newline_breaks(text: str) -> None:
    shown = as_shown(text)
    assert shown.splitlines() == shown.removesuffix("\n").split("\n") or not shown
    assert all(len(as_drawn(line)) == len(line) for line in shown.split("\n"))


def test_lines_keep_their_own_ends_beside_an_edit() -> None:
    file = loaded(b"\xef\xbb\xbfa = 1\r\nb = 2\nc = 3\r\nd = 4")
    edited = file.text.replace("b = 2", "new\nb = 2").replace("c = 3", "c = 5")
    assert encoded(edited, file) == b"\xef\xbb\xbfa = 1\r\nnew\nb = 2\nc = 5\r\nd = 4"


def test_windows_ends_of_lines_are_taken_on_by_new_lines() -> None:
    assert encoded("a = 1\nb = 2\n", loaded(b"a = 1\r\n")) == b"a = 1\r\nb = 2\r\n"


def test_a_file_that_is_not_there_starts_as_a_valid_template(tmp_path: Path) -> None:
    file = load(tmp_path / "my first study.toml")
    assert file.data is None
    assert parse_spec(file.text, file.path).spec.study.name == "my-first-study"
    assert encoded(file.text, file) == file.text.encode()


def test_saving_writes_and_notices_nothing_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    file = save(load(path), "x = 1\n")
    assert path.read_text() == "x = 1\n"
    assert changed_elsewhere(file) is None


def test_saving_never_goes_over_a_change_made_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("x = 1\n")
    file = load(path)
    path.write_text("x = 2  # theirs\n")
    assert changed_elsewhere(file) == "changed"
    with pytest.raises(ChangedElsewhereError):
        save(file, "x = 3\n")
    assert path.read_text() == "x = 2  # theirs\n"

    file = save(file, "x = 3\n", keep_other=True)
    assert path.read_text() == "x = 3\n"
    assert (tmp_path / "mine.toml.orig").read_text() == "x = 2  # theirs\n"
    assert changed_elsewhere(file) is None

    path.write_text("x = 4  # theirs again\n")
    save(file, "x = 5\n", keep_other=True)
    assert (tmp_path / "mine.toml.orig").read_text() == "x = 2  # theirs\n"
    assert (tmp_path / "mine.toml.orig2").read_text() == "x = 4  # theirs again\n"


def test_a_template_does_not_go_over_a_file_that_appeared(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    file = load(path)
    path.write_text("theirs")
    assert changed_elsewhere(file) == "changed"
    with pytest.raises(ChangedElsewhereError):
        save(file, "mine")


def test_a_file_that_is_gone_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("x = 1\n")
    file = load(path)
    path.unlink()
    assert changed_elsewhere(file) == "gone"
    save(file, "x = 1\n")
    assert path.exists()


def test_a_file_that_was_only_touched_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("x = 1\n")
    file = load(path)
    path.write_text("x = 1\n")
    assert changed_elsewhere(file) is None


def test_a_link_and_the_mode_of_a_file_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_text("x = 1\n")
    real.chmod(0o600)
    link.symlink_to(real)
    save(load(link), "x = 2\n")
    assert link.is_symlink()
    assert real.read_text() == "x = 2\n"
    assert real.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_edited_says_why(tmp_path: Path) -> None:
    latin, large = tmp_path / "latin.toml", tmp_path / "large.toml"
    latin.write_bytes("name = 'größe'".encode("latin-1"))
    large.write_bytes(b"#" * (LARGEST_BYTES + 1))
    with pytest.raises(SpecError, match="not UTF-8"):
        load(latin)
    with pytest.raises(SpecError, match="the editor takes up to"):
        load(large)
    with pytest.raises(SpecError, match="is a folder"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        save(Loaded(tmp_path / "file" / "mine.toml", "", None), "x")


def test_specs_that_ship_are_told_from_files_in_a_folder_called_alike() -> None:
    assert load(bundled_folder() / "pocket.toml").is_bundled
    assert not load(Path("specs/pocket.toml")).is_bundled


def test_a_copy_of_a_run_knows_where_its_spec_is_from(tmp_path: Path) -> None:
    text = '# studyctl: relative paths start at "/somewhere/else"\n[study]\n'
    assert Loaded(tmp_path / "spec.toml", text, text.encode()).written_in == Path("/somewhere/else")
    assert Loaded(tmp_path / "spec.toml", "[study]\n", b"[study]\n").written_in is None

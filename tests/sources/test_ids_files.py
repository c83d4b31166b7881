from pathlib import Path

import numpy as np
import pytest

from studyctl.errors import ProblemCode, StepError, StudyError
from studyctl.sources.ids_files import identify_ids, read_ids


def saved(folder: Path, ids: np.ndarray) -> Path:
    path = folder / "ids.npy"
    np.save(path, ids)
    return path


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_shape_and_values(tmp_path: Path, dtype: type) -> None:
    path = saved(tmp_path, np.arange(6, dtype=dtype).reshape(2, 3))
    ids = identify_ids(path, 6)
    assert (ids.samples, ids.tokens) == (2, 3)
    assert read_ids(ids).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_ids(ids).dtype == np.int64


def test_ids_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([[0, 6]], np.int32))
    with pytest.raises(StudyError, match="holds the token id 6, but the vocabulary has 6"):
        identify_ids(path, 6)
    assert identify_ids(path, None).samples == 1
    with pytest.raises(StudyError, match="holds the token id -1"):
        identify_ids(saved(tmp_path, np.array([[0, -1]], np.int32)), None)


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3), np.int16),
        np.zeros((2, 3), np.uint32),
        np.zeros(3, np.int32),
        np.zeros((2, 0), np.int32),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, ids: np.ndarray) -> None:
    with pytest.raises(StudyError, match=r"int32 or int64 \[samples, tokens\]"):
        identify_ids(saved(tmp_path, ids), None)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    np.save(path, np.array([[print]], object), allow_pickle=True)
    with pytest.raises(StudyError, match=r"is no \.npy file of numbers"):
        identify_ids(path, None)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no file"):
        identify_ids(tmp_path / "none.npy", None)
    (tmp_path / "a.npy").write_text("text")
    with pytest.raises(StudyError, match=r"is no \.npy file"):
        identify_ids(tmp_path / "a.npy", None)
    np.savez(tmp_path / "several.npz", a=np.zeros(2))
    with pytest.raises(StudyError, match="several arrays"):
        identify_ids(tmp_path / "several.npz", None)


def test_the_key_is_of_the_content(tmp_path: Path) -> None:
    first = identify_ids(saved(tmp_path, np.array([[1]], np.int32)), None).key
    assert identify_ids(saved(tmp_path, np.array([[2]], np.int32)), None).key != first


def test_other_ids_than_those_that_were_planned_are_never_read(tmp_path: Path) -> None:
    ids = identify_ids(saved(tmp_path, np.array([[1]], np.int32)), None)
    saved(tmp_path, np.array([[2]], np.int32))
    with pytest.raises(
        StepError, match=r"the token ids `ids\.npy` changed since the study was planned"
    ) as caught:
        read_ids(ids)
    assert caught.value.problems[0].code is ProblemCode.CHANGED


@pytest.mark.real
def test_the_reference_ids(real: Path) -> None:
    ids = identify_ids(real / "reference" / "smollm2-135m-16x512.npy", 49_152)
    assert (ids.samples, ids.tokens) == (16, 512)

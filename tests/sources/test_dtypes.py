from pathlib import Path

import pytest

from studyctl.sources.dtypes import cpu_computes_bfloat16, resolve_dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_the_spec_says_is_taken(dtype: str) -> None:
    assert resolve_dtype(dtype, "cpu") == resolve_dtype(dtype, "cuda:0") == dtype


def test_auto_is_bfloat16_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype("auto", "cuda:1") == "bfloat16"
    for native, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("studyctl.sources.dtypes.cpu_computes_bfloat16", lambda native=native: native)
        assert resolve_dtype("auto", "cpu") == dtype


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu sse2 avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu sse2 avx2 avx512f", False),
        ("Features\t: fp asimd", False),
        ("", False),
    ],
)
def test_flags_of_the_processor(tmp_path: Path, line: str, native: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\nbugs\t: none\n")
    assert cpu_computes_bfloat16(path) is native


def test_a_system_without_cpuinfo(tmp_path: Path) -> None:
    assert cpu_computes_bfloat16(tmp_path / "none") is False

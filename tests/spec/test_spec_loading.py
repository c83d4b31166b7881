"""What is wrong with a table: in plain words, at its place, all of it at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import ExitCode, SpecError
from studyctl.spec.loading import load_spec
from studyctl.spec.models import CalibrationOverride

from .specs import FULL, MINIMAL, document, marked, mistakes, problems


def test_a_spec_with_everything_is_read() -> None:
    spec = document(FULL).spec
    assert [model.short_name for model in spec.models] == ["Qwen2.5-0.5B", "Qwen2.5-0.5B-Instruct"]
    awq = spec.compression[2]
    assert awq.swept == {"bits", "calibration", "backend"}
    assert [(settings.bits, override.languages, backend) for settings, override, backend in awq.expand()][
        :3
    ] == [  # type: ignore[attr-defined]
        (3, None, "studyctl"),
        (3, None, "autoawq"),
        (3, ("sw",), "studyctl"),
    ]
    assert spec.compression[3].method == ("sparsegpt", "gptq")
    assert spec.execution.devices == ("cuda:0", "cuda:1")
    assert spec.evaluation.tasks is not None
    assert not spec.evaluation.tasks.keep_texts


def test_defaults() -> None:
    spec = document(MINIMAL).spec
    assert spec.study.seeds == (0,)
    assert spec.models[0].dtype == "auto"
    assert spec.compression == ()
    assert spec.evaluation.perplexity is None
    assert (spec.calibration.samples, spec.calibration.sequence_length) == (128, 2048)


def test_the_texts_of_items_are_kept_unless_the_spec_says_otherwise() -> None:
    tasks = document(MINIMAL + '\n[evaluation.tasks]\nnames = ["boolq"]\n').spec.evaluation.tasks
    assert tasks is not None
    assert tasks.keep_texts


def test_the_shipped_specs_are_right() -> None:
    for path in sorted((Path(__file__).parents[2] / "specs").glob("*.toml")):
        assert load_spec(path).spec.study.name == path.stem


@pytest.mark.parametrize(
    ("table", "what", "underlined", "note"),
    [
        # keys
        (
            '[[compression]]\nmethod = "magnitude"\nsparcity = 0.5\nsparsity = 0.5',
            "unknown key `sparcity`",
            "sparcity",
            "did you mean `sparsity`?",
        ),
        ("[exection]\nretries = 1", "unknown table `exection`", "exection", "did you mean `execution`?"),
        (
            '[perplexity]\nsource = "c4"',
            "unknown table `perplexity`",
            "perplexity",
            "write `[evaluation.perplexity]`",
        ),
        (
            "[evaluation.tasks]\nshots = 1",
            "`[evaluation.tasks]` needs `names`, or a task in `[evaluation.tasks.own.NAME]`",
            "[evaluation.tasks]",
            "",
        ),
        ("[[models]]\ndtype = 'auto'", "`[[models]]` needs `id`", "[[models]]", ""),
        ("[[compression]]\nbits = 4", "`[[compression]]` needs `method`", "[[compression]]", ""),
        (
            '[text.x]\ndataset = "x"\nsplit = { calib = "train" }',
            "unknown key `calib`",
            "calib",
            "did you mean `calibration`?",
        ),
        ('[text."a b"]\nfiles = "x"', "`a b` cannot be a name here", '"a b"', ""),
        ("[calibration]\nsamples = 1\n[[calibration.x]]\na = 1", "unknown key `x`", "x", ""),
        # types
        (
            '[[compression]]\nmethod = "rtn"\nbits = "4"',
            "`bits` needs a whole number, got text",
            '"4"',
            "write 4 without quotes",
        ),
        (
            '[[compression]]\nmethod = "rtn"\nbits = [3, true]',
            "`bits` needs a whole number, got true",
            "true",
            "",
        ),
        ('[[compression]]\nmethod = "rtn"\nbits = 4.0', "`bits` needs a whole number, got 4.0", "4.0", ""),
        (
            '[[compression]]\nmethod = "rtn"\nsymmetric = "yes"',
            "`symmetric` needs true or false, got text",
            '"yes"',
            "",
        ),
        ('[[compression]]\nmethod = "rtn"\nsymmetric = 1', "`symmetric` needs true or false, got 1", "1", ""),
        (
            '[[compression]]\nmethod = "wanda"\nsparsity = { a = 1 }',
            "`sparsity` needs a number, got a table",
            "{ a = 1 }",
            "",
        ),
        (
            '[calibration]\nlanguages = "en"',
            "`languages` needs a list of texts, got text",
            '"en"',
            'write ["en"]',
        ),
        ("[calibration]\nsource = 2020-01-01", "`source` needs text, got a date or time", "2020-01-01", ""),
        ("[calibration]\nsamples = [1]", "`samples` needs a whole number, got a list", "[1]", ""),
        ("[[execution]]\nretries = 1", "`execution` is one table, not a list of them", "[[execution]]", ""),
        ('[text.x]\ndataset = "x"\nconfig = 3', "`config` needs text or a table of texts, got 3", "3", ""),
        ('[text.x]\ndataset = "x"\nconfig = { en = 3 }', "`en` needs text, got 3", "3", ""),
        ('[execution]\ndevices = ["cpu", 3]', "`devices` needs text, got 3", "3", ""),
        ("[execution]\ndevices = true", "`devices` needs text or a list of texts, got true", "true", ""),
        # values
        (
            '[[compression]]\nmethod = "rtn"\nbits = [3, 9]',
            "`bits` must be at least 2 and at most 8, not 9",
            "9",
            "",
        ),
        (
            '[[compression]]\nmethod = "wanda"\nsparsity = 1',
            "`sparsity` must be at least 0 and less than 1, not 1",
            "1",
            "",
        ),
        (
            '[[compression]]\nmethod = "wanda"\nsparsity = nan',
            "`sparsity` must be a finite number, not nan",
            "nan",
            "",
        ),
        (
            '[[compression]]\nmethod = "gptq"\ndamping = 0\ncalibration = { source = "pocket" }',
            "`damping` must be more than 0 and at most 10, not 0",
            "0",
            "",
        ),
        (
            '[[compression]]\nmethod = "wanda"\npattern = "2/4"',
            '`pattern` must be n:m such as "2:4", not "2/4"',
            '"2/4"',
            "",
        ),
        ('[[compression]]\nmethod = "rtn"\nbits = []', "`bits` needs at least one", "[]", ""),
        (
            '[[compression]]\nmethod = "rtn"\nbackend = "autogptq"',
            '`backend` cannot be "autogptq"',
            '"autogptq"',
            "did you mean `auto-gptq`?",
        ),
        (
            '[[models]]\nid = "x"\ndtype = "bf16"',
            '`dtype` cannot be "bf16"',
            '"bf16"',
            "did you mean `bfloat16`?",
        ),
        ('[[models]]\nid = ""', "`id` is empty", '""', ""),
        (
            '[evaluation.perplexity]\nsource = "pocket"\nlanguages = ["e n"]',
            '`languages` may hold letters, digits, `_` and `-` only, not "e n"',
            '"e n"',
            "",
        ),
        (
            '[execution]\ndevices = ["cpu", "gpu0"]',
            '`gpu0` is not a device: write "auto", "cpu", "cuda:0" or a list of these',
            '"gpu0"',
            "",
        ),
        # methods
        (
            '[[compression]]\nmethod = "spargegpt"\nsparsity = 0.5\ncalibration = { source = "pocket" }',
            "unknown method `spargegpt`",
            '"spargegpt"',
            "did you mean `sparsegpt`?",
        ),
        ('[[compression]]\nmethod = "dense"', "`dense` is always included", '"dense"', ""),
        ("[[compression]]\nmethod = 3", "`method` needs text, got 3", "3", ""),
        (
            '[[compression]]\nmethod = ["gptq", "rtn"]\nsparsity = 0.5',
            '`method` cannot be "gptq"',
            '"gptq"',
            "",
        ),
        (
            '[[compression]]\nmethod = ["wanda"]\nsparsity = 0.5',
            "a list as `method` must be a pair: one that prunes, then one that quantizes",
            '["wanda"]',
            "",
        ),
        (
            '[[compression]]\nmethod = "prune+quantize"\nsparsity = 0.5',
            "a list as `method` must be a pair: one that prunes, then one that quantizes",
            '"prune+quantize"',
            "",
        ),
        # what tables say within themselves
        (
            '[[compression]]\nmethod = "wanda"\nsparsity = 0.5\npattern = "2:4"',
            "a pattern fixes the sparsity: give one of the two",
            "pattern",
            "",
        ),
        ('[[compression]]\nmethod = "wanda"', "needs `sparsity` or `pattern`", "[[compression]]", ""),
        (
            '[[compression]]\nmethod = "wanda"\npattern = ["2:4", "4:4"]',
            "`4:4` keeps 4 of 4, so it prunes nothing; n must be smaller than m",
            '"4:4"',
            "",
        ),
        ('[[compression]]\nmethod = "rtn"\nbits = [4, 3, 4]', "`4` is listed twice", "4", ""),
        (
            '[[models]]\nid = "Qwen/Qwen2.5-0.5B"',
            "`Qwen/Qwen2.5-0.5B` is listed twice",
            '"Qwen/Qwen2.5-0.5B"',
            "",
        ),
        (
            '[text.x]\nfiles = "x"\ndataset = "y"',
            "a text source has `dataset` or `files`, not both",
            "files",
            "",
        ),
        (
            '[text.x.files]\nperplexity = { de = { fil = "x", file = "y" } }',
            "unknown key `fil`",
            "fil",
            "did you mean `file`?",
        ),
        (
            "[text.x.files]\nperplexity = { de = { file = 4 } }",
            "`file` needs text, got 4",
            "4",
            "",
        ),
        (
            "[text.x.files]\nperplexity = 4",
            "`perplexity` needs text or a table of texts or tables, got 4",
            "4",
            "",
        ),
        (
            '[text.x.files]\nperplexity = { file = "x", field = "y" }',
            "`file` and `field` belong to a language: `{ de = { file = …, field = … } }`",
            '{ file = "x", field = "y" }',
            "",
        ),
        ("[text.x]\nfield = 'text'", "a text source needs `dataset` or `files`", "[text.x]", ""),
        (
            "[evaluation.fidelity]\nmetrics = ['kl']",
            "fidelity is measured on the perplexity windows: add `[evaluation.perplexity]`",
            "[evaluation.fidelity]",
            "",
        ),
        # lists of tables
        (
            '[compression]\nmethod = "magnitude"\nsparsity = 0.5',
            "`compression` is a list of tables",
            "[compression]",
            "write `[[compression]]`",
        ),
    ],
)
def test_one_thing_is_wrong(table: str, what: str, underlined: str, note: str) -> None:
    text = f"{MINIMAL}{table}\n"
    (problem,) = problems(text)
    assert problem.what == what
    assert marked(problem, text) == underlined
    assert problem.note == note


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ('[[compression]]\nmethod = "rtn"\nsamples = 3', "`samples` belongs to `[calibration]`"),
        (
            '[[compression]]\nmethod = "magnitude"\nsparsity = 0.5\nbits = 3',
            "`bits` belongs to method `rtn`, `gptq`, `awq`",
        ),
        (
            "[evaluation.fidelity]\nxyz = 1\n[evaluation.perplexity]\nsource = 'pocket'",
            "`[evaluation.fidelity]` takes `metrics`, `activations`",
        ),
        (
            '[execution]\nexecutor = "slurm"',
            "where workers run is in a profile: `studyctl run SPEC --on NAME` (docs/cluster.md)",
        ),
        (
            "[[compression]]\nmethod = 'x'",
            'methods are `magnitude`, `wanda`, `rtn`, `sparsegpt`, `gptq`, `awq`, `gguf`, `checkpoint`, or a pair such as ["sparsegpt", "gptq"]',
        ),
    ],
)
def test_hints(table: str, hint: str) -> None:
    (problem,) = problems(f"{MINIMAL}{table}\n")
    assert problem.hint == hint


def test_everything_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
[study]
name = "a b"
[calibration]
source = "nowhere"
samples = 0
[[compression]]
method = "spargegpt"
sparcity = 0.5
[[compression]]
method = "wanda"
sparsity = [0.5, 2]
patern = "2:4"
models = ["Llama*"]
[evaluation.perplexity]
windows = -1
languages = ["xx"]
source = "pocket"
"""
    assert mistakes(text) == [
        ("the spec needs `[[models]]`", "["),
        ('`name` may hold letters, digits, `.`, `_` and `-` only, not "a b"', '"a b"'),
        ("there is no text source `nowhere`", '"nowhere"'),
        ("`samples` must be at least 1 and at most 100000, not 0", "0"),
        ("unknown method `spargegpt`", '"spargegpt"'),
        ("unknown key `sparcity`", "sparcity"),
        ("`sparsity` must be at least 0 and less than 1, not 2", "2"),
        ("unknown key `patern`", "patern"),
        ("`windows` must be at least 0 and at most 1000000, not -1", "-1"),
        ("text source `pocket` has no language `xx`", '"xx"'),
    ]


def test_a_single_table_of_models_is_checked_all_the_same() -> None:
    text = '[study]\nname = "x"\n[models]\nid = "x"\ndtyp = "auto"\n'
    assert mistakes(text) == [("`models` is a list of tables", "[models]"), ("unknown key `dtyp`", "dtyp")]


def test_missing_tables() -> None:
    assert [problem.what for problem in problems("[execution]\nretries = 1\n")] == [
        "the spec needs `[study]`",
        "the spec needs `[[models]]`",
    ]


def test_integers_serve_where_numbers_are_wanted() -> None:
    spec = document(f'{MINIMAL}[[compression]]\nmethod = "magnitude"\nsparsity = 0\n').spec
    assert spec.compression[0].sparsity == (0.0,)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [".", "..", "...", "a/b", "ä"])
def test_names_that_are_no_folders_of_their_own(name: str) -> None:
    assert len(problems(MINIMAL.replace("mine", name))) == 1


@pytest.mark.parametrize(("bom", "end"), [("", "\n"), ("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r\n")])
def test_windows_files(tmp_path: Path, bom: str, end: str) -> None:
    path = tmp_path / "a.toml"
    text = '# 你好 é\n[study]\nname = "é"\n[[models]]\n\tid = 3 # ü\n'
    path.write_bytes((bom + text.replace("\n", end)).encode())
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert [(problem.line, problem.column, problem.length) for problem in caught.value.problems] == [
        (3, 8, 3),
        (5, 7, 1),
    ]


def _failure(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert caught.value.exit_code is ExitCode.BAD_SPEC
    (problem,) = caught.value.problems
    return problem.what


def test_files_that_are_no_specs(tmp_path: Path) -> None:
    empty, other, utf16 = tmp_path / "empty.toml", tmp_path / "latin1.toml", tmp_path / "utf16.toml"
    empty.write_text("# nothing\n")
    other.write_bytes(b"[study]\nname = '\xe9'\n")
    utf16.write_bytes("[study]".encode("utf-16"))
    assert _failure(empty) == "the spec is empty"
    assert _failure(other) == "this is not UTF-8, the encoding of TOML files"
    assert _failure(utf16) == "this is not UTF-8, the encoding of TOML files"
    assert _failure(tmp_path) == f"`{tmp_path}` is a folder, not a spec"
    assert _failure(tmp_path / "emty.toml") == f"there is no spec `{tmp_path / 'emty.toml'}`"
    with pytest.raises(SpecError) as caught:
        load_spec(other)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 9)
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "emty.toml")
    assert caught.value.problems[0].hint == "did you mean `empty.toml`?"


def test_a_document_places_the_problems_of_others() -> None:
    doc = document(FULL)
    value = doc.problem("does not divide", ("compression", 2, "group_size", 0), hint="64 does")
    assert (marked(value, FULL), value.hint, value.severity) == ("128", "64 does", "error")
    key = doc.problem("x", ("compression", 2, "group_size"), key=True, severity="warning")
    assert (marked(key, FULL), key.severity) == ("group_size", "warning")
    assert marked(doc.problem("x", ("compression", 0, "damping")), FULL) == "[[compression]]"
    assert marked(doc.problem("x", ("compression", 0, "damping"), key=True), FULL) == "[[compression]]"
    assert marked(doc.problem("x", ("models", 1, "id")), FULL) == '"Qwen/Qwen2.5-0.5B-Instruct"'
    nowhere = doc.problem("x", ("nowhere",))
    assert (nowhere.line, nowhere.column) == (1, 1)
    assert doc.written(("calibration", "samples"))
    assert not doc.written(("calibration", "ids"))


def test_overrides_replace_keys_of_the_calibration() -> None:
    base = document(FULL).spec.calibration
    changed = CalibrationOverride(languages=("sw",), samples=3).applied_to(base)
    assert (changed.languages, changed.samples, changed.source) == (("sw",), 3, "c4")


LINES = [line for line in FULL.split("\n") if line]


@given(st.data())
def test_no_damaged_spec_goes_unexplained(data: st.DataObject) -> None:
    """Whatever is dropped, doubled or misspelt: a document, or problems whose places are in the file."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(["drop", "twice", "cut", "value", "insert"]))
        line = lines[index]
        if change == "drop":
            del lines[index]
        elif change == "twice":
            lines.insert(index, line)
        elif change == "cut":
            at = data.draw(st.integers(0, len(line)))
            lines[index] = line[:at] + line[at + 1 :]
        elif change == "value":
            value = data.draw(
                st.sampled_from(
                    ["true", "-1", "1e400", '""', "[]", "{}", "[[1]]", '{ a = [3, "x"] }', "07:32:00"]
                )
            )
            lines[index] = f"{line.partition('=')[0]}= {value}"
        else:
            lines[index] = line.replace("e", "ë", 1)
    text = "\n".join(lines)
    for problem in problems(text):
        assert problem.what
        assert "Input should" not in problem.what
        assert problem.line is None or marked(problem, text) or problem.length == 1


def test_reading_specs_needs_nothing_heavy() -> None:
    script = (
        "import sys, studyctl.spec.loading, studyctl.spec.schema, studyctl.report.problems\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy', 'pyarrow', 'duckdb', 'huggingface_hub'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class TestGridsOfGguf:
    @pytest.mark.parametrize(
        ("table", "what", "underlined", "more"),
        [
            (
                'method = "gptq"\ngrid = "gguf:Q4_K_M"\nbits = 4',
                "`bits` does not go with `grid`",
                "bits",
                "llama.cpp's blocks have bits and groups of their own: remove one of the two",
            ),
            (
                'method = "rtn"\nsymmetric = true\ngrid = "gguf:Q4_0"',
                "`symmetric` does not go with `grid`",
                "symmetric",
                "llama.cpp's blocks have bits and groups of their own: remove one of the two",
            ),
            (
                'method = "gptq"\ngrid = "gguf:Q4_K"',
                '`grid` cannot be "gguf:Q4_K"',
                '"gguf:Q4_K"',
                "it is one of",
            ),
            ('method = "gguf"\ntype = "Q9_0"', '`type` cannot be "Q9_0"', '"Q9_0"', "it is one of"),
            (
                'method = "awq"\ngrid = "gguf:Q4_0"',
                "unknown key `grid`",
                "grid",
                "`grid` belongs to method `rtn`, `gptq`",
            ),
        ],
    )
    def test_mistakes(self, table: str, what: str, underlined: str, more: str) -> None:
        text = f'{MINIMAL}[calibration]\nsource = "pocket"\n[[compression]]\n{table}\n'
        assert mistakes(text) == [(what, underlined)]
        (problem,) = problems(text)
        assert more in problem.hint or "did you mean" in problem.note

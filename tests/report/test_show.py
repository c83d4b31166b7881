"""What `studyctl show` prints: at any width, without colour, and as JSON."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.cli import app
from studyctl.contract.records import FileFacts
from studyctl.report.layout import change, fixed, ratio
from studyctl.report.show import as_json, show
from studyctl.report.trial import show_trial
from studyctl.store import results
from studyctl.store.publish import publish
from tests.store import builder
from tests.store.builder import FakeStudy
from tests.tui.studies import TRIAL, died


def shown(study: FakeStudy, width: int = 80, *, colour: bool = False) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=colour, color_system="truecolor" if colour else None
    )
    with results.open(study.paths) as opened:
        show(opened, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("trial", ["", TRIAL])
def test_what_a_dead_runner_left_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trial: str
) -> None:
    study = died(tmp_path / "mine copy")
    publish(study.paths, running=[TRIAL])
    app(["show", str(study.root), *([trial] if trial else [])], standalone_mode=False)
    text = capsys.readouterr().out
    assert "running" not in text
    assert "stopped" in text
    if not trial:
        assert "6 trials: 1 done, 1 stopped, 4 pending" in text
        assert "died, last sign of life 5 min" in text
        assert f"`studyctl run '{study.paths.spec}'` goes on" in text


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> FakeStudy:
    study = FakeStudy(tmp_path_factory.mktemp("show") / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    return study


def test_a_whole_study(study: FakeStudy) -> None:
    text = re.sub(r"published \S+ \S+ UTC", "published (when)", shown(study))
    assert (
        "\n".join(line.rstrip() for line in text.splitlines())
        == """\
small: A small study
3 trials: 3 done · published (when)

Leaderboard  org/alpha
                                ppl         Δ bits
 variant       bits/w         ratio          /byte            KL
 dense           16.0         1.000              –             –
 wanda-0.5        9.0  1.645 ±0.000  +0.144 ±0.000  0.100 ±0.000
 rtn-4bit-g64     4.3  1.207 ±0.000  +0.054 ±0.000  0.100 ±0.000

 variant         acc          Δ acc  flips  time
 dense         0.600              –      –  12 s
 wanda-0.5     0.350  −0.250 ±0.237     14  14 s
 rtn-4bit-g64  0.600  ≈0.000 ±0.103      4  14 s
 ppl ratio: per token, geometric mean over 3 languages
 worst language: sw +0.170 bits/byte (wanda-0.5)
 ±: 95 % interval over windows and items; ≈ (grey): it holds no change

Perplexity  org/alpha
 variant                  en             sw             zh
 dense                 20.00          30.00          40.00
 wanda-0.5     ×1.500 ±0.000  ×1.800 ±0.000  ×1.650 ±0.000
 rtn-4bit-g64  ×1.100 ±0.000  ×1.320 ±0.000  ×1.210 ±0.000
 dense: perplexity per token; the others: how many times that of dense

Bits per byte  org/alpha
 variant                  en             sw             zh
 dense                 0.864          0.981          1.064
 wanda-0.5     +0.117 ±0.000  +0.170 ±0.000  +0.144 ±0.000
 rtn-4bit-g64  +0.028 ±0.000  +0.080 ±0.000  +0.055 ±0.000
 dense: bits per byte; the others: the change; compare languages by these

Accuracy  org/alpha
 variant       arc_easy               boolq
 dense         0.600~                 0.600~
 wanda-0.5     0.350 ≈−0.250 ±0.386~  0.350 ≈−0.250 ±0.386~
 rtn-4bit-g64  0.600  ≈0.000 ±0.169~  0.600  ≈0.000 ±0.169~

 variant       mean of 2            of those above chance
 dense         0.600                0: –
 wanda-0.5     0.350 −0.250 ±0.237  0: –
 rtn-4bit-g64  0.600 ≈0.000 ±0.103  0: –
 with the change from dense; * p < 0.05, exact McNemar test on paired items
 ~ at chance: guessing does as well as this variant and dense together

In short
 - Quantized is ahead of pruned: rtn-4bit-g64 (4.3 bits/w), the best of its
 kind, needs 0.089 bits per byte less than wanda-0.5 (9.0 bits/w); 95 % interval
 0.089 to 0.089 over 12 windows in 3 languages, for these texts and one
 calibration draw.
 - The models of this study do not exist.
 - Next: `studyctl export small alpha.rtn-4bit-g64 FOLDER` writes rtn-4bit-g64
 for transformers and vLLM.

Warnings  studyctl sql small 'from warnings'
 - damping was raised (alpha.wanda-0.5, compress and 1 more)"""
    )


@pytest.fixture(scope="module")
def with_files(tmp_path_factory: pytest.TempPathFactory) -> FakeStudy:
    """A study whose last variant has no GGUF file; one trial has a size in a folder."""
    study = FakeStudy(tmp_path_factory.mktemp("files") / "small", models=("org/alpha",))
    study.files = {
        "alpha.dense": FileFacts(bytes=300 << 20, vocabulary_bytes=60 << 20),
        "alpha.wanda-0.5": FileFacts(bytes=300 << 20, vocabulary_bytes=60 << 20),
        "alpha.rtn-4bit-g64": FileFacts(why_none="no whole blocks of 32"),
    }
    study.write_all()
    study.write_plan(trials=[one | {"stored_bytes": 99 << 20} for one in study.trials()])
    publish(study.paths)
    return study


def test_the_leaderboard_has_mib_of_the_file_and_says_where_there_is_none(with_files: FakeStudy) -> None:
    text = shown(with_files)
    assert re.search(r"dense +16\.0 +300 ", text)
    assert re.search(r"rtn-4bit-g64 +4\.3 +\(99\.0\) ", text)
    assert (
        "MiB: the GGUF file that `export --to gguf` writes; in brackets: weights as an exported folder stores them"
        in " ".join(text.split())
    )


@pytest.mark.parametrize("width", [40, 80])
def test_one_trial_with_its_file(with_files: FakeStudy, width: int) -> None:
    def of(name: str) -> str:
        console = Console(width=width, file=io.StringIO())
        with results.open(with_files.paths) as opened:
            show_trial(opened.standing(f"alpha.{name}"), [], console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width
        return " ".join(text.split())

    pruned, quantized = of("wanda-0.5"), of("rtn-4bit-g64")
    assert "GGUF file: 300 MiB, 20% of it embeddings and head" in pruned
    assert "no runtime gains from its zeros" in pruned
    assert "perplexity to dense: ×1.645 ±0.000" in pruned
    assert "GGUF file: no whole blocks of 32" in quantized
    assert "weights in an exported folder: 99.0 MiB" in quantized
    assert "runtime" not in quantized


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(tmp_path: Path, width: int) -> None:
    study = FakeStudy(
        tmp_path / "wide",
        languages=("ar", "de", "en", "es", "ru", "sw", "zh"),
        tasks=("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"),
        models=("org/alpha",),
        variants=("dense", "rtn-4bit-g64"),
    )
    study.write_plan()
    study.attempt("alpha.dense").run_all()
    publish(study.paths)
    text = shown(study, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for name in (*study.languages, *study.tasks):
        assert re.search(rf"\b{name}\b", text), name
    assert text.count("0.600") == 9


def test_colour_changes_nothing_but_colour(study: FakeStudy) -> None:
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown(study, colour=True)) == shown(study)


def test_json_holds_what_is_printed(study: FakeStudy) -> None:
    with results.open(study.paths) as opened:
        data = json.loads(json.dumps(as_json(opened), allow_nan=False))
    assert list(data) == [
        "about",
        "progress",
        "leaderboard",
        "perplexity",
        "tasks",
        "deployment",
        "agreement",
        "warnings",
        "failures",
    ]
    assert data["about"]["notes"] == ["The models of this study do not exist."]
    assert data["leaderboard"][1]["variant"] == "wanda-0.5"
    assert data["leaderboard"][1]["flips"] == 14
    assert len(data["perplexity"]) == 9


class TestBackends:
    """Settings that several packages compress."""

    VARIANTS = (
        "dense", "wanda-0.5", "rtn-4bit-g64", "rtn-4bit-g64@gptqmodel", "rtn-4bit-g64@llm-compressor",
    )  # fmt: skip

    @pytest.fixture
    def study(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
        monkeypatch.setattr(builder, "MEMORY", 2 << 30)
        monkeypatch.setattr(builder, "SECONDS", 72.34)
        return FakeStudy(tmp_path / "small", models=("org/alpha",), variants=self.VARIANTS, tasks=())

    @staticmethod
    def section(text: str) -> str:
        lines = [line.rstrip() for line in text[text.index("Agreement") :].splitlines()]
        return "\n".join(lines[: lines.index("In short")])

    def test_each_stands_below_ours(self, study: FakeStudy) -> None:
        publish(study.write_all().paths)
        assert (
            self.section(shown(study))
            == """\
Agreement  org/alpha
                             KL    ppl  bits   time                    memory
 variant              KL  ratio  ratio    /w   in s  speedup   memory   ratio
 rtn-4bit-g64     0.1000   1.00  1.207   4.3   72.3     1.00  2.0 GiB    1.00
 @gptqmodel       0.1250   0.80  1.207   4.3  217.0     3.00  4.0 GiB    0.50
 @llm-compressor  0.0800   1.25  1.207   4.3  108.5     1.50  1.0 GiB    2.00
 KL ratio, memory ratio: studyctl's / this one's; below 1: studyctl's is lower
 speedup: time of this one / of studyctl's; above 1: studyctl is faster
 by studyctl 0.1.0, gptqmodel 4.0.0, llm-compressor 0.8.1
"""
        )

    def test_one_that_failed_keeps_its_line(self, study: FakeStudy) -> None:
        study.write_plan()
        for variant in ("dense", "rtn-4bit-g64", "rtn-4bit-g64@llm-compressor"):
            study.attempt(f"alpha.{variant}").run_all()
        study.attempt("alpha.rtn-4bit-g64@gptqmodel").fail("compress")
        publish(study.paths)
        text = self.section(shown(study))
        assert "✗ @gptqmodel          –      –      –   4.3      –        –        –       –" in text
        assert "by studyctl 0.1.0, llm-compressor 0.8.1" in text

    def test_without_ours_the_first_has_its_whole_name_and_there_are_no_ratios(
        self, study: FakeStudy
    ) -> None:
        study.write_all()
        study.write_plan(trials=[one for one in study.trials() if one["variant"] != "rtn-4bit-g64"])
        publish(study.paths)
        *_, first = self.section(shown(study, 100)).partition(" rtn-4bit-g64@gptqmodel ")
        assert first.splitlines()[0].split() == [
            "0.1250",
            "–",
            "1.207",
            "4.3",
            "217.0",
            "–",
            "4.0",
            "GiB",
            "–",
        ]

    @pytest.mark.parametrize("measured", [(), ("dense", "wanda-0.5")])
    def test_nothing_is_said_before_one_of_them_is_measured(
        self, study: FakeStudy, measured: tuple[str, ...]
    ) -> None:
        study.write_plan()
        for variant in measured:
            study.attempt(f"alpha.{variant}").run_all()
        publish(study.paths)
        assert "Agreement" not in shown(study)

    def test_a_study_of_one_backend_says_nothing_of_it(self, tmp_path: Path) -> None:
        study = FakeStudy(tmp_path / "one").write_all()
        publish(study.paths)
        assert "Agreement" not in shown(study)

    @pytest.mark.parametrize("width", [48, 60, 80, 120])
    def test_names_break_before_the_backend_and_no_line_is_too_wide(
        self, study: FakeStudy, width: int
    ) -> None:
        publish(study.write_all().paths)
        text = shown(study, width)
        assert max(map(len, text.splitlines())) <= width
        for line in text.splitlines():
            if "@" in line:
                assert re.search(r"@(gptqmodel|llm-compressor)\b", line), line

    def test_json_holds_the_rows(self, study: FakeStudy) -> None:
        publish(study.write_all().paths)
        with results.open(study.paths) as opened:
            rows = json.loads(json.dumps(as_json(opened), allow_nan=False))["agreement"]
        assert [(row["setting"], row["backend"], row["speedup"]) for row in rows] == [
            ("rtn-4bit-g64", "studyctl", 1.0),
            ("rtn-4bit-g64", "gptqmodel", pytest.approx(3.0)),
            ("rtn-4bit-g64", "llm-compressor", pytest.approx(1.5)),
        ]


def test_a_failure_says_what_to_do(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan()
    attempt = study.attempt("alpha.wanda-0.5")
    attempt.begin("compress")
    attempt.fail("compress")
    publish(study.paths)
    text = shown(study)
    assert "3 trials: 1 failed, 2 pending" in text
    assert "Nothing is measured yet." in text
    assert "✗ alpha.wanda-0.5  compress: out of memory at block 3\n" in text, "the cause once"
    assert "= hint: use fewer samples" in text


def test_a_significant_change_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "correct", lambda variant, item: int(variant == "dense"))
    study = FakeStudy(
        tmp_path / "small", models=("org/alpha",), variants=("dense", "wanda-0.5"), tasks=("boolq",)
    ).write_all()
    publish(study.paths)
    # All 10 passages are lost: the upper end of Tango's interval is -(n - z²) / (n + z²).
    assert "0.000 −1.000 [−1.000, −0.445]*" in shown(study)


def test_a_task_is_shown_with_its_language(tmp_path: Path) -> None:
    study = FakeStudy(
        tmp_path / "small", models=("org/alpha",), tasks=("boolq", "quiz"), task_languages={"quiz": "sw"}
    ).write_all()
    publish(study.paths)
    assert re.search(r"boolq +quiz \(sw\)", shown(study))


def test_without_dense_that_is_why_there_is_no_interval(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan()
    study.attempt("alpha.wanda-0.5").run_all()
    publish(study.paths)
    text = shown(study)
    assert "no ±: dense, which they are compared with, is not measured yet" in text
    assert "fewer than" not in text


@pytest.mark.parametrize(("model", "is_hinted_at"), [("package:zoo/alpha.gguf", True), ("./alpha", False)])
def test_whoever_tried_a_bundled_model_learns_how_to_take_an_own_one(
    tmp_path: Path, model: str, *, is_hinted_at: bool
) -> None:
    study = FakeStudy(tmp_path / "small", models=(model,)).write_all()
    publish(study.paths)
    assert ("for your own model, change `id`" in " ".join(shown(study).split())) is is_hinted_at


def test_what_has_no_interval_is_said_and_marked_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "WINDOWS", 3)
    study = FakeStudy(tmp_path / "small", models=("org/alpha",), tasks=()).write_all()
    publish(study.paths)
    text = shown(study)
    assert "no ±: fewer than 4 windows or items, or measured by an earlier version" in text
    assert "95 %" not in text
    assert "≈" not in text


def test_seeds_tell_trials_of_one_variant_apart(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",), tasks=())
    study.attempt("alpha.wanda-0.5").run_all()
    trial = next(trial for trial in study.trials() if trial["trial"] == "alpha.wanda-0.5")
    study.write_plan(trials=[trial, trial | {"trial": "alpha.wanda-0.5.seed1", "seed": 1}])
    publish(study.paths)
    text = shown(study)
    assert "wanda-0.5 seed 0" in text
    assert "wanda-0.5 seed 1" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0406, "1.041"),
        (40.3, "40.30"),
        (151.26, "151.3"),
        (1234.5, "1234"),
        (3.2e9, "3.2e+09"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_ratios_have_about_four_digits(value: float | None, text: str) -> None:
    assert ratio(value).plain == text


def test_changes_have_a_sign() -> None:
    assert [change(value).plain for value in (0.0041, -0.0041, 0.00001, -0.00001, None)] == [
        "+0.004", "−0.004", "0.000", "0.000", "–",
    ]  # fmt: skip
    assert fixed(float("inf"), 3).plain == "–"
    assert (fixed(-0.0, 3).plain, fixed(-0.00001, 3).plain, ratio(-0.0).plain) == ("0.000", "0.000", "0.000")

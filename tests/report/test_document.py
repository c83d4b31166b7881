"""What `studyctl report` writes: one content as HTML, LaTeX and Markdown, safe whatever a study's texts hold."""

import html as entities
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from studyctl import cli
from studyctl.contract.hypotheses import Measure, Metric, PlannedHypothesis, Sides
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.report.document import charts, html, markdown, selection, tex
from studyctl.report.document.model import (
    Cell,
    Column,
    Document,
    Figure,
    Forest,
    ForestRow,
    HeatCell,
    HeatMap,
    Items,
    Paragraph,
    Point,
    Scatter,
    Section,
    Table,
)
from studyctl.report.document.write import write_report
from studyctl.store.publish import publish
from tests.hostile import UNSEEN, hostile_study
from tests.store.builder import FakeStudy

NAME = r"""<script>alert(1)</script>'"</style>&amp;|`x`\input{x}$a_b%c#d~e^f[g](https://x.y)*h*!www.z.w 中é"""
"""A name that is markup in each of the formats, with letters of two scripts."""
CLAIM = PlannedHypothesis(
    name="grid-wins",
    claim="Rounding to a grid keeps more than pruning.",
    hash="h",
    metrics=(Metric(Measure.BITS_PER_BYTE),),
    pairs=(Sides(("rtn-4bit-g64",), ("wanda-0.5",)),),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> FakeStudy:
    """Two models, a hypothesis, and a trial of the second model that failed."""
    study = FakeStudy(tmp_path_factory.mktemp("report") / "small", hypotheses=(CLAIM,))
    study.write_plan()
    for trial in study.trials():
        attempt = study.attempt(trial["trial"])
        if trial["trial"] == "beta.wanda-0.5":
            attempt.fail("compress")
        else:
            attempt.run_all()
    publish(study.paths)
    return study


@pytest.fixture
def report(study: FakeStudy, tmp_path: Path) -> Callable[..., str]:
    def write(suffix: str, paths: StudyPaths = study.paths, **options: bool) -> str:
        write_report(paths, tmp_path / f"report{suffix}", **options)
        return (tmp_path / f"report{suffix}").read_text("utf-8")

    return write


# -- what it says


def test_markdown_has_the_figures_of_show_with_their_intervals(report: Callable[..., str]) -> None:
    lines = report(".md").splitlines()
    assert lines[:3] == ["# A small study", "", lines[2]]
    assert lines[2].startswith("Study small · 6 trials: 5 done, 1 failed · results of ")
    leaderboard = lines[lines.index("**alpha**") :]
    assert leaderboard[2:7] == [
        "| variant | bits/w | MiB | ppl ratio | Δ bits/byte | KL | acc | Δ acc | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| dense | 16.0 | – | – | – | – | 0.600 | – | 12 s |",
        r"| wanda-0.5 | 9.0 | – | 1.645 ±0.000 | +0.144 ±0.000 | 0.100 ±0.000 | 0.350 | −0.250 ±0.237 | 14 s |",
        r"| rtn-4bit-g64 | 4.3 | – | 1.207 ±0.000 | +0.054 ±0.000 | 0.100 ±0.000 | 0.600 | ≈0.000 ±0.103 | 14 s |",
    ]
    assert "On the Pareto front of size and bits per byte: dense, rtn-4bit-g64." in lines
    assert (
        "| wanda-0.5 | 6 / 1 | 6 / 1 | 12 / 2 |" in lines
    )  # dense right and the variant wrong / the reverse


@pytest.mark.parametrize("suffix", [".md", ".html", ".tex"])
def test_every_format_has_every_part(report: Callable[..., str], suffix: str) -> None:
    text = entities.unescape(re.sub("<[^>]*>", "", report(suffix))).replace("{-}", "-")
    for part in (
        "Findings", "Size and quality", "Languages", "Tasks", "Flips", "Settings", "Versions", "Failures", "Warnings", "Methods",
        "References",
    ):  # fmt: skip
        assert part in text
    assert "grid-wins: supported" in text  # the verdict
    assert "Rounding to a grid keeps more than pruning." in text
    assert "The models of this study do not exist." in text  # a note of the study
    assert "source c4, samples 8" in text  # calibration
    assert "torch" in text
    assert "2.13.0" in text
    assert "use fewer samples" in text  # what to do about the failure
    assert "damping was raised" in text


def test_only_methods_of_the_study_are_cited_in_the_order_of_the_text(report: Callable[..., str]) -> None:
    text = report(".md")
    references = re.findall(r"^(\d+)\. (.*)$", text[text.index("## References") :], re.MULTILINE)
    marks = re.findall(r"\\\[(\d+)\\\]", text[text.index("## Methods") : text.index("## References")])
    assert list(dict.fromkeys(marks)) == [number for number, _ in references]
    entries = " ".join(entry for _, entry in references)
    for paper in (
        "A Simple and Effective Pruning Approach",  # wanda
        "Integer-Arithmetic-Only",  # rtn
        "Satterthwaite", "Tango", "McNemar", "Holm",
        "Revisiting Pruning vs Quantization for Small Language Models. Findings of EMNLP 2025",
    ):  # fmt: skip
        assert paper in entries
    for paper in ("GPTQ", "AWQ", "SparseGPT", "Han"):
        assert paper not in entries


def test_what_may_be_no_change_is_grey_and_marked(report: Callable[..., str]) -> None:
    assert '<span class="unsure">≈0.000 <small>±0.103</small></span>' in report(".html")
    assert r"\unsure{$\approx$0.000 \interval{$\pm$0.103}}" in report(".tex")
    assert "≈0.000 ±0.103" in report(".md")


def test_a_study_without_hypotheses_says_so_and_which_kind_is_ahead(
    report: Callable[..., str], tmp_path: Path
) -> None:
    other = FakeStudy(tmp_path / "plain", models=("org/alpha",)).write_all()
    publish(other.paths)
    text = report(".md", other.paths)
    assert "The spec states no hypothesis." in text
    assert "Quantized is ahead of pruned: rtn-4bit-g64" in text
    assert "Holm" not in text


def test_items_and_their_texts_are_listed_on_demand_only(report: Callable[..., str], tmp_path: Path) -> None:
    prompt, choices = "boolq: where is boat 13?⏎Answer:", ("at sea", "in the harbour")
    assert "Items that flipped" not in report(".md")
    assert "boat 13" not in report(".html")
    listed = report(".md", with_items=True).replace("\\", "")
    answers = "1: in the harbour | 0: at sea | 1: in the harbour"
    assert f"| boolq 13 | rtn-4bit-g64 | wrong to right | {answers} |" in listed
    # once, whatever trials flipped it
    assert listed.count(f"| boolq 13 | {prompt} | {' | '.join(choices)} |") == 1
    plain = FakeStudy(tmp_path / "plain", models=("org/alpha",), texts=False).write_all()
    publish(plain.paths)
    listed = report(".md", plain.paths, with_items=True)
    assert "| boolq 13 | rtn-4bit-g64 | wrong to right | 1 | 0 | 1 |" in listed
    assert "Their texts" not in listed


def test_a_large_study_is_cut_to_the_best_and_says_what_is_left_out(
    report: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "OF_MODEL", 2)
    text = report(".md")
    assert "1 more trials are left out; these are dense and the best of each model, 2 at most" in text
    alpha = text[text.index("**alpha**") : text.index("**beta**")]
    assert "| dense |" in alpha
    assert "| rtn-4bit-g64 |" in alpha  # the least change in bits per byte
    assert "| wanda-0.5 |" not in alpha


# -- HTML


class Page(HTMLParser):
    """The elements of a page, checked for being closed in order."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, ...]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tuple(self.open))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tuple(self.open))


ELEMENTS = frozenset(
    {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "header",
            "h1",
            "p",
            "nav",
            "a",
            "main",
            "section",
            "h2",
        ),
        *("ul", "ol", "li", "div", "table", "caption", "thead", "tr", "th", "tbody", "td", "span", "small"),
        *("figure", "h3", "figcaption", "svg", "g", "path", "rect", "line", "text", "defs", "clippath"),
    }
)


def test_a_page_loads_nothing_and_runs_nothing(report: Callable[..., str]) -> None:
    text = report(".html")
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "srcset", "xlink:href"}
    assert all(attributes["href"].startswith("#s") for tag, attributes in page.elements if tag == "a")  # type: ignore[union-attr]
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert (
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        in text
    )


def test_a_page_fits_a_phone_and_a_dark_room(report: Callable[..., str]) -> None:
    text = report(".html")
    page = Page(text)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media (prefers-color-scheme: dark)" in text
    tables = [path for (tag, _), path in zip(page.elements, page.inside, strict=True) if tag == "table"]
    assert tables
    assert all(path[-1] == "div" for path in tables)  # the one that scrolls
    assert text.count('<div class="scroll"') == len(tables)
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert (
        len(pictures) == 8
    )  # a metric, a hypothesis, languages of two variants, size of two models by two measures
    assert all(one["role"] == "img" and one["aria-label"] for one in pictures)
    assert "currentColor" in text  # axes have the colour of the text


PANELS = (
    Forest(NAME, NAME, True, (ForestRow(NAME, 0.9, 0.8, 1.1, True, False), ForestRow("b", 2.0, None, None, False, True))),
    HeatMap(NAME, (HeatCell(NAME, NAME, 0.2, False), HeatCell(NAME, "x", -0.004, True)), 0.1),
    Scatter(NAME, "MiB", "change", (NAME, "dense"), (Point(NAME, 100.0, 0.1, 0.0, 0.2, True), Point("dense", 200.0, 0.0, None, None, True))),
)  # fmt: skip


def hostile(name: str) -> Document:
    """Return a document with a name in every place."""
    table = Table(
        name, (Column(name, figures=False), Column(name)), ((Cell(name), Cell(name, name, True)),), (name,)
    )
    blocks = (Paragraph(name), Items((name,)), Items((name,), numbered=True), table, Figure(name, PANELS))
    return Document(name, (name,), (Section(name, blocks),))


def test_markup_in_names_is_text_in_html() -> None:
    text = html.write(hostile(NAME))
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert "<script" not in text
    assert text.count("</style>") == 1
    assert text.count(entities.escape(NAME)) >= 12


@pytest.mark.parametrize("panel", PANELS, ids=["forest", "heat map", "scatter"])
def test_a_label_of_a_chart_is_text(panel: Forest | HeatMap | Scatter) -> None:
    drawn = charts.svg(panel)
    assert "&lt;script&gt;" in drawn
    assert "<script" not in drawn


def test_a_heat_map_shows_two_decimals_and_marks_what_may_be_no_change() -> None:
    cells = [
        HeatCell("m", str(place), value, value < 0.01)
        for place, value in enumerate((0.126, -0.004, 12.4, -0.3))
    ]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", charts.svg(HeatMap("m", tuple(cells), 1.0)))
    assert {"+0.13", "≈0", "+12", "≈−0.30"} <= set(texts)


def test_long_labels_lose_their_middle_unless_they_would_be_alike() -> None:
    assert charts._labels(["SmolLM2-135M-Instruct.Q4_1", "b"], 19) == {
        "SmolLM2-135M-Instruct.Q4_1": "SmolLM2-135…ct.Q4_1",
        "b": "b",
    }
    alike = ["aaaa-1-bbbbbbb", "aaaa-2-bbbbbbb"]
    assert charts._labels(alike, 12) == {name: name for name in alike}


# -- Markdown


def test_markup_in_names_is_text_in_markdown() -> None:
    lines = markdown.write(hostile(NAME)).splitlines()
    escaped = r"""\<script\>alert(1)\</script\>'"\</style\>\&amp;\|\`x\`\\input\{x\}\$a\_b%c\#d\~e^f\[g\](https\://x.y)\*h\*\!www\.z.w 中é"""
    assert lines[0] == f"# {escaped}"
    assert f"| {escaped} | {escaped} |" in lines
    assert f"| {escaped} | ≈{escaped} {escaped} |" in lines  # two columns, whatever bars are in them


@pytest.mark.parametrize(
    ("text", "line"), [("1. one", r"1\. one"), ("- one", r"\- one"), ("+ one", r"\+ one"), ("===", r"\===")]
)
def test_a_paragraph_is_no_list_and_underlines_nothing(text: str, line: str) -> None:
    assert markdown.write(Document("t", (text,), ())).splitlines()[2] == line


# -- LaTeX

ENGINES = {
    "pdflatex": ("-interaction=nonstopmode", "-halt-on-error"),
    "xelatex": ("-interaction=nonstopmode", "-halt-on-error"),
    "tectonic": (),
}


def test_markup_in_names_is_text_in_latex() -> None:
    assert tex._text(r"\input{x}$a_b%c#d~e^f&g") == (
        r"\textbackslash{}input\{x\}\$a\_\allowbreak{}b\%c\#d\textasciitilde{}e\textasciicircum{}f\&g"
    )
    assert tex._text("中é–") == r"\other{4E2D}{中}é--"


def test_tables_are_of_booktabs_and_fit_the_page() -> None:
    columns = (Column("variant", figures=False), *(Column(f"language {place}") for place in range(12)))
    row = (Cell("dense"), *(Cell("+0.123", "±0.045") for _ in range(12)))
    text = tex.write(Document("t", (), (Section("s", (Table("Languages", columns, (row,)),)),)))
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert text.count("dense &") == 2  # the names of the rows are in both
    assert text.count(r"\begin{tabular}{@{}lrrrrrr@{}}") == 2  # six and six, not eleven and one


@pytest.mark.parametrize("engine", ENGINES)
def test_latex_compiles(report: Callable[..., str], tmp_path: Path, engine: str) -> None:
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed")
    bad = hostile_study(tmp_path / "bad")
    pages = {
        "good": report(".tex"),
        "bad": report(".tex", bad.paths),
        "names": tex.write(hostile(NAME)),
    }
    for name, text in pages.items():
        (tmp_path / f"{name}.tex").write_text(text, "utf-8")
        command = [engine, *ENGINES[engine], f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert (tmp_path / f"{name}.pdf").stat().st_size > 10_000


# -- the command


@pytest.mark.parametrize("suffix", [".md", ".html", ".tex"])
def test_no_character_that_is_not_seen_is_in_a_report(
    report: Callable[..., str], tmp_path: Path, suffix: str
) -> None:
    text = report(suffix, hostile_study(tmp_path / "bad").paths, with_items=True)
    assert not set(UNSEEN) & set(text)


@pytest.mark.parametrize(
    ("output", "what", "hint"),
    [
        ("x.pdf", "x.pdf has the suffix .pdf; a report is written as .html, .tex, .md", "name it x.html"),
        ("x", "x has no suffix; a report is written as .html, .tex, .md", "name it x.html"),
        ("x.htm", "x.htm has the suffix .htm; a report is written as .html, .tex, .md", "name it x.html"),
        ("none/x.md", "there is no folder none", "`mkdir -p none` makes it"),
        ("here.md", "here.md is a folder", "name a file in it"),
    ],
)
def test_what_cannot_be_written_is_an_error(
    study: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, what: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.md").mkdir()
    with pytest.raises(StudyError) as error:
        write_report(study.paths, Path(output))
    assert [(problem.what, problem.hint) for problem in error.value.problems] == [(what, hint)]
    assert [path.name for path in tmp_path.iterdir()] == ["here.md"]


def test_charts_need_the_extra_and_the_other_formats_do_not(
    study: FakeStudy, report: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    with pytest.raises(StudyError) as error:
        write_report(study.paths, tmp_path / "x.html")
    (problem,) = error.value.problems
    assert problem.what == "charts need altair and vl-convert-python, which are not installed"
    assert "pip install 'studyctl[report]'" in problem.hint
    report(".md")
    report(".tex")


def test_nothing_published_and_nothing_measured_are_errors(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "empty")
    study.write_plan()
    with pytest.raises(StudyError, match="nothing of empty is published yet"):
        write_report(study.paths, tmp_path / "x.md")
    publish(study.paths)
    with pytest.raises(StudyError, match="nothing of empty is measured yet"):
        write_report(study.paths, tmp_path / "x.md")
    assert not (tmp_path / "x.md").exists()


def test_an_old_report_is_replaced_as_a_whole_or_not_at_all(
    study: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(sys, "argv", ["studyctl", "report", str(study.root), "-o", str(page)])
    monkeypatch.setattr(cli, "prepare_streams", lambda: None)
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", _fails)
        with pytest.raises(SystemExit):
            cli.main()
    assert "cannot write" in capsys.readouterr().err
    assert page.read_text() == "old"
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text().startswith("# A small study")
    assert list(tmp_path.iterdir()) == [page]


def _fails(*_: object) -> None:
    raise OSError(28, "No space left on device")

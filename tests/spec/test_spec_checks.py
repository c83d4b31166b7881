"""What tables of a spec say of each other."""

import pytest

from .specs import MINIMAL, marked, mistakes, problems

WANDA = '[[compression]]\nmethod = "wanda"\nsparsity = 0.5\n'
PAIR = '[[compression]]\nmethod = ["sparsegpt", "gptq"]\nsparsity = 0.5\n'
C4 = '[text.c4]\ndataset = "allenai/c4"\nconfig = { en = "en", de = "de" }\n'
PERPLEXITY = '[evaluation.perplexity]\nsource = "{}"\nlanguages = {}\n'


@pytest.mark.parametrize(
    ("tables", "what", "underlined"),
    [
        ('[calibration]\nsource = "c5"\n' + C4, "there is no text source `c5`", '"c5"'),
        (
            WANDA,
            "methods that calibrate need a text: `[calibration]` with `source` is missing",
            "[[compression]]",
        ),
        (
            WANDA + PAIR + '[[compression]]\nmethod = "rtn"\n',
            "methods that calibrate need a text: `[calibration]` with `source` is missing",
            "[[compression]]",
        ),
        (
            PAIR + "[calibration]\nsamples = 3\n",
            "methods that calibrate need a text: `[calibration]` with `source` is missing",
            "[calibration]",
        ),
        (
            '[[compression]]\nmethod = "gguf"\ntype = ["Q4_0", "Q8_0"]\nimatrix = ["none", "calibration"]\n',
            "methods that calibrate need a text: `[calibration]` with `source` is missing",
            "[[compression]]",
        ),
        (
            '[[compression]]\nmethod = "gguf"\ntype = "Q4_0"\ncalibration = { samples = 3 }\n',
            "`gguf` needs no calibration data",
            "calibration",
        ),
        (
            "[evaluation.perplexity]\nwindows = 4\n",
            "perplexity is measured on a text: `[evaluation.perplexity]` with `source` is missing",
            "[evaluation.perplexity]",
        ),
        (WANDA + 'calibration = { source = "x" }\n' + C4, "there is no text source `x`", '"x"'),
        (
            WANDA + 'calibration = [{}, { languages = ["sw"] }]\n' + C4,
            "text source `c4` has no language `sw`",
            '"sw"',
        ),
        (PERPLEXITY.format("poket", '["en"]'), "there is no text source `poket`", '"poket"'),
        (PERPLEXITY.format("pocket", '["en", "fr"]'), "text source `pocket` has no language `fr`", '"fr"'),
        (C4 + PERPLEXITY.format("c4", '["en", "sw"]'), "text source `c4` has no language `sw`", '"sw"'),
        (
            '[text.x]\nfiles = "a.txt"\n' + PERPLEXITY.format("x", '["en", "de"]'),
            "text source `x` has one text, not one for each of 2 languages",
            '["en", "de"]',
        ),
        (
            '[text.x]\ndataset = "d"\nconfig = "all"\n' + PERPLEXITY.format("x", '["en", "de"]'),
            "text source `x` has one text, not one for each of 2 languages",
            '["en", "de"]',
        ),
        (
            '[text.x]\nfiles = { calibration = "{language}.txt" }\n' + PERPLEXITY.format("x", '["en"]'),
            "text source `x` has no text for perplexity",
            '"x"',
        ),
        (
            '[text.x]\ndataset = "d"\nsplit = { perplexity = "test" }\n[calibration]\nsource = "x"\n' + WANDA,
            "text source `x` has no text for calibration",
            '"x"',
        ),
        ('[text.x]\nfiles = "{lang}.txt"\n', "unknown placeholder `{lang}`", '"{lang}.txt"'),
        (
            '[text.x.files]\nperplexity = { de = { file = "{lang}.txt" } }\n',
            "unknown placeholder `{lang}`",
            '"{lang}.txt"',
        ),
        ('[calibration]\nids = "{id}.npy"\n', "unknown placeholder `{id}`", '"{id}.npy"'),
        (
            '[[compression]]\nmethod = "rtn"\ncalibration = { samples = 3 }\n',
            "`rtn` needs no calibration data",
            "calibration",
        ),
        (
            '[calibration]\nids = "a.npy"\n' + WANDA + 'calibration = { languages = ["de"] }\n',
            "`languages` has no effect together with `ids`, which gives exact tokens",
            "languages",
        ),
        (
            '[[compression]]\nmethod = "rtn"\nmodels = ["Qwen/*", "Llama*"]\n',
            "no model matches `Llama*`",
            '"Llama*"',
        ),
        (
            '[evaluation.tasks]\nnames = ["arc_easy"]\ndata = { arc_eazy = "x.jsonl" }\n',
            "`names` does not list the task `arc_eazy`",
            "arc_eazy",
        ),
        (
            '[evaluation.tasks]\nnames = ["arc_easy"]\nmain = { arc_eazy = "acc_norm" }\n',
            "`names` does not list the task `arc_eazy`",
            "arc_eazy",
        ),
        (
            '[evaluation.tasks]\nnames = ["arc_easy"]\nmain = { boolq = "acc" }\n',
            "`names` does not list the task `boolq`",
            "boolq",
        ),
        (
            '[evaluation.tasks]\nmain = { quizz = "acc" }\n[evaluation.tasks.own.quiz]\nfile = "q.csv"\n',
            "`names` does not list the task `quizz`",
            "quizz",
        ),
        (
            '[evaluation.tasks]\ndata = { quiz = "q.csv" }\n[evaluation.tasks.own.quiz]\nfile = "q.csv"\n',
            "`quiz` is a task of your own",
            "quiz",
        ),
        (
            '[evaluation.tasks]\nnames = ["rte"]\nshots = 2\ndata = { rte = { test = "x.jsonl" } }\n',
            "shots = 2 needs examples for `rte`",
            '{ test = "x.jsonl" }',
        ),
    ],
)
def test_one_thing_is_wrong(tables: str, what: str, underlined: str) -> None:
    text = MINIMAL + tables
    (problem,) = problems(text)
    assert problem.what == what
    assert marked(problem, text) == underlined
    assert problem.note or problem.hint, "every error says what to do"


@pytest.mark.parametrize(
    "tables",
    [
        WANDA + C4,
        WANDA + '[calibration]\nsource = "pocket"\nlanguages = ["sw", "zh"]\n',
        WANDA + '[calibration]\nids = "{model}.npy"\n',
        WANDA + 'calibration = { ids = "a.npy" }\n' + '[calibration]\nsource = "pocket"\n',
        '[[compression]]\nmethod = "rtn"\n',  # needs no calibration, so no c4
        '[[compression]]\nmethod = "gguf"\ntype = "Q4_0"\n',
        C4 + "[evaluation.perplexity]\nwindows = 4\n",
        '[text.x]\nfiles = "{language}.txt"\n' + PERPLEXITY.format("x", '["en", "xx"]'),
        '[text.x]\nfiles = "a.txt"\n' + PERPLEXITY.format("x", '["xx"]'),
        '[text.x]\nfiles = { perplexity = "a.txt" }\n' + PERPLEXITY.format("x", '["xx"]'),
        '[[compression]]\nmethod = "checkpoint"\nid = "x"\nof = "Qwen/Qwen2.5-0.5B"\nmodels = ["Qwen/*"]\n',
        '[evaluation.tasks]\nnames = ["rte"]\nshots = 2\ndata = { rte = { test = "x", fewshot = "y" } }\n',
        '[evaluation.tasks]\nnames = ["rte", "boolq"]\nmain = { boolq = "acc" }\n',
    ],
)
def test_nothing_is_wrong(tables: str) -> None:
    assert mistakes(MINIMAL + tables) == []


def test_one_bad_table_does_not_hide_what_is_wrong_with_the_others() -> None:
    tables = '[calibration]\nsource = "x"\nsamples = 0\n[[compression]]\nmethod = "rtn"\nmodels = ["L*"]\nbits = 9\n'
    assert [what for what, _ in mistakes(MINIMAL + tables)] == [
        "there is no text source `x`",
        "`samples` must be at least 1 and at most 100000, not 0",
        "no model matches `L*`",
        "`bits` must be at least 2 and at most 8, not 9",
    ]


def test_a_value_that_cannot_be_read_is_told_once() -> None:
    assert mistakes(MINIMAL + WANDA + "[calibration]\nsource = 5\n") == [("`source` needs text, got 5", "5")]


def test_whoever_names_no_text_is_told_of_those_that_there_are() -> None:
    (problem,) = problems(MINIMAL + '[text.own]\nfiles = "a.txt"\n' + WANDA)
    assert problem.hint == (
        "write `own`, `pocket` or the name of a new `[text]` table; the default, `c4`, needs a table `[text.c4]`"
    )

"""From ``[[hypotheses]]`` to the variants that they compare; what compares nothing is told at its place."""

from pathlib import Path

import pytest

from studyctl.contract.hypotheses import By, Interaction, Level, PlannedHypothesis, Sides
from studyctl.errors import Problem
from studyctl.plan.hypotheses import resolve_hypotheses
from studyctl.plan.variants import expand_variants
from studyctl.spec.loading import parse_spec
from tests.spec.specs import marked

STUDY = """\
[study]
name = "mine"

[[models]]
id = "org/alpha"

[[models]]
id = "org/beta"

[calibration]
source = "pocket"

[[compression]]
method = "wanda"
sparsity = [0.5, 0.75]

[[compression]]
method = "sparsegpt"
pattern = "2:4"

[[compression]]
method = "awq"
bits = 4

[[compression]]
method = "gptq"
bits = [4, 8]

[evaluation.perplexity]
source = "pocket"
languages = ["ar", "de", "en"]

[evaluation.fidelity]
metrics = ["kl"]

[evaluation.tasks]
names = ["arc_easy", "boolq"]

"""
TASKS = ("arc_easy", "boolq")
SIDES = 'left = { methods = "gptq" }\nright = { methods = "wanda" }\n'


def spec_of(tables: str, study: str = STUDY) -> str:
    return f'{study}[[hypotheses]]\nname = "claim"\n{tables}'


def resolved(text: str) -> tuple[list[PlannedHypothesis], list[Problem]]:
    document = parse_spec(text, Path("mine.toml"))
    variants, problems = expand_variants(document)
    assert problems == []
    return resolve_hypotheses(document, variants, TASKS)


def pairs(tables: str) -> tuple[Sides, ...]:
    (hypothesis,), problems = resolved(spec_of(f'metric = "kl_ratio"\n{tables}'))
    assert problems == []
    return hypothesis.pairs


class TestSelectors:
    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ('{ methods = "wanda" }', {"wanda-0.5", "wanda-0.75"}),
            ('{ methods = ["wanda", "sparsegpt"] }', {"wanda-0.5", "wanda-0.75", "sparsegpt-2:4"}),
            ("{ sparsity = 0.5 }", {"wanda-0.5", "sparsegpt-2:4"}),  # 2:4 is half
            ("{ bits = 8 }", {"gptq-8bit-g128"}),
            ('{ bits = 4, methods = "gptq" }', {"gptq-4bit-g128"}),
            ('{ names = "wanda-*" }', {"wanda-0.5", "wanda-0.75"}),
            ('{ names = ["wanda-0.5", "gptq-8*"] }', {"wanda-0.5", "gptq-8bit-g128"}),
        ],
    )
    def test_a_variant_meets_every_key_and_one_value_of_each(self, selector: str, names: set[str]) -> None:
        (pair,) = pairs(f'left = {selector}\nright = {{ names = "dense" }}\n')
        assert set(pair.left) == names
        assert pair.right == ("dense",)

    def test_without_a_key_they_are_all_that_are_compressed(self) -> None:
        (pair,) = pairs('left = { names = "dense" }\nright = {}\n')
        assert len(pair.right) == 6
        assert "dense" not in pair.right

    def test_match_narrows_both_sides_to_pairs(self) -> None:
        matched = pairs(
            'left = { methods = "gptq" }\nright = { methods = ["wanda", "sparsegpt"] }\n'
            "match = [{ left = { bits = 8 }, right = { sparsity = 0.5 } }, { left = { bits = 4 }, right = { sparsity = 0.75 } }]\n"
        )
        assert matched == (
            Sides(("gptq-8bit-g128",), ("wanda-0.5", "sparsegpt-2:4")),
            Sides(("gptq-4bit-g128",), ("wanda-0.75",)),
        )

    def test_a_variant_that_two_tables_make_for_other_models_counts_once(self) -> None:
        table = '[[compression]]\nmethod = "rtn"\nbits = 4\nmodels = ["org/{}"]\n\n'
        study = STUDY + table.format("alpha") + table.format("beta")
        (hypothesis,), _ = resolved(
            spec_of(
                'metric = "kl_ratio"\nleft = { methods = ["rtn", "gptq"] }\nright = { methods = "wanda" }\n',
                study,
            )
        )
        assert hypothesis.pairs[0].left == ("gptq-4bit-g128", "gptq-8bit-g128", "rtn-4bit-g128")


class TestDefaults:
    @pytest.mark.parametrize(
        ("metric", "margin"),
        [
            ("bits_per_byte", 0.002),
            ("kl_ratio", 0.05),
            ("accuracy", 0.005),
            ("accuracy:boolq", 0.005),
            ("gold_nats", None),
            ("size_mib", None),
        ],
    )
    def test_margins(self, metric: str, margin: float | None) -> None:
        (hypothesis,), problems = resolved(spec_of(f'metric = "{metric}"\n{SIDES}'))
        assert (hypothesis.margin, problems) == (margin, [])

    def test_the_metric_is_the_ratio_of_kls_where_the_claim_is_about_models(self) -> None:
        (hypothesis,), _ = resolved(spec_of(f'generalize = "models"\n{SIDES}'))
        assert (str(hypothesis.metric), hypothesis.generalize) == ("kl_ratio", Level.MODELS)

    def test_groups_are_compared_by_their_means(self) -> None:
        groups = 'interaction = { of = "language", levels = [["en"], ["ar", "de"]] }\n'
        (hypothesis,), _ = resolved(spec_of(f'metric = "bits_per_byte"\n{SIDES}{groups}'))
        assert hypothesis.interaction == Interaction(By.LANGUAGE, (("en",), ("ar", "de")))
        assert hypothesis.generalize is Level.LANGUAGES

    def test_the_hash_is_that_of_the_claim_and_of_the_variants(self) -> None:
        text = spec_of(f'metric = "kl_ratio"\n{SIDES}')

        def hash_of(changed: str) -> str:
            return resolved(changed)[0][0].hash

        assert hash_of(f"# a comment\n{text}") == hash_of(text)
        assert hash_of(text.replace('["arc_easy", "boolq"]', '["boolq"]')) == hash_of(text)
        assert hash_of(f"{text}margin = 0.1\n") != hash_of(text)
        assert hash_of(text.replace("[0.5, 0.75]", "[0.5]")) != hash_of(text)


@pytest.mark.parametrize(
    ("tables", "what", "place", "advice"),
    [
        ('metric = "kl_ratio"\nleft = { methods = "gptk" }\nright = { methods = "wanda" }\n',
         "no variant has the method `gptk`", '"gptk"', "did you mean `gptq`?"),
        ('metric = "kl_ratio"\nleft = { methods = ["gptq", "awk"] }\nright = { methods = "wanda" }\n',
         "no variant has the method `awk`", '"awk"', "there are"),
        ('metric = "kl_ratio"\nleft = { bits = 3 }\nright = { methods = "wanda" }\n',
         "no variant has bits = `3`", "3", "there are `4`, `8`"),
        ('metric = "kl_ratio"\nleft = { names = "gptq-4bit" }\nright = { methods = "wanda" }\n',
         "no variant has a name like `gptq-4bit`", '"gptq-4bit"', "did you mean `gptq-4bit-g128`?"),
        ('metric = "kl_ratio"\nleft = { methods = "gptq", sparsity = 0.5 }\nright = { methods = "wanda" }\n',
         "no variant meets all of these keys", '{ methods = "gptq", sparsity = 0.5 }', "the variants are"),
        (f'metric = "kl_ratio"\n{SIDES}match = [{{ left = {{ bits = 5 }} }}]\n',
         "no variant has bits = `5`", "5", "there are `4`, `8`"),
        (f'metric = "kl_ratio"\n{SIDES}match = [{{}}, {{ right = {{ sparsity = 0.9 }} }}]\n',
         "no variant has sparsity = `0.9`", "0.9", "there are `0.5`, `0.75`"),
        ('metric = "kl_ratio"\nleft = { methods = "wanda" }\nright = { sparsity = 0.5 }\n',
         "`wanda-0.5` is on both sides", "[[hypotheses]]", "narrow `left` or `right`"),
        (f'metric = "top1"\n{SIDES}', "nothing measures top1", '"top1"', 'add "top1" to `metrics` of `[evaluation.fidelity]`'),
        ('rank_agreement = ["kl_ratio", "snr"]\n', "nothing measures snr", '"snr"', 'add "snr" to `metrics`'),
        (f'metric = "accuracy:bolq"\n{SIDES}', "the study has no task `bolq`", '"accuracy:bolq"', "did you mean `boolq`?"),
        (f'metric = "ppl_ratio"\n{SIDES}', "ppl_ratio is per token: it is no mean over languages and models", '"ppl_ratio"', "use bits_per_byte"),
        (f'metric = "ppl_ratio"\nby = "model"\n{SIDES}', "ppl_ratio is per token: it is no mean over languages", '"ppl_ratio"', "use bits_per_byte"),
        (f'metric = "kl_ratio"\n{SIDES}interaction = {{ of = "language", levels = [["en"], ["ae"]] }}\n',
         "the study has no language `ae`", '"ae"', "there are"),
        (f'metric = "kl_ratio"\n{SIDES}interaction = {{ of = "language", levels = [["en", "de"], ["de"]] }}\n',
         "`de` is in both groups, or twice in one", '"de"', ""),
        (f'metric = "accuracy"\n{SIDES}interaction = {{ of = "task", levels = [["boolq"], ["arc"]] }}\n',
         "the study has no task `arc`", '"arc"', "there are"),
    ],
)  # fmt: skip
def test_what_compares_nothing_is_told_at_its_place(tables: str, what: str, place: str, advice: str) -> None:
    text = spec_of(tables)
    hypotheses, (problem,) = resolved(text)
    assert hypotheses == []
    assert problem.what == what
    assert marked(problem, text) == place
    assert advice in f"{problem.note} {problem.hint}"
    assert problem.line is not None
    assert problem.line > STUDY.count("\n")


@pytest.mark.parametrize(
    ("without", "metric", "what"),
    [
        ("[evaluation.tasks]", "accuracy", "nothing measures accuracy"),
        ("[evaluation.fidelity]", "kl_ratio", "nothing measures kl_ratio"),
    ],
)
def test_a_metric_of_a_table_that_the_spec_does_not_have(without: str, metric: str, what: str) -> None:
    begin = STUDY.index(without)
    end = STUDY.find("[evaluation", begin + 1)
    study = STUDY[:begin] + (STUDY[end:] if end > 0 else "")
    _, (problem,) = resolved(spec_of(f'metric = "{metric}"\n{SIDES}', study))
    assert problem.what == what


def test_all_problems_of_a_hypothesis_are_told_at_once() -> None:
    _, problems = resolved(spec_of('metric = "top1"\nleft = { bits = 3 }\nright = { methods = "wandaa" }\n'))
    assert [problem.what for problem in problems] == [
        "no variant has bits = `3`", "no variant has the method `wandaa`", "nothing measures top1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "warned"),
    [("windows", False), ("languages", False), ("models", True), ("languages+models", True)],
)
def test_too_few_of_a_level_is_a_warning(level: str, warned: bool) -> None:
    """Two models and three languages: the study runs, but that hypothesis will have no verdict."""
    text = spec_of(f'metric = "kl_ratio"\ngeneralize = "{level}"\n{SIDES}')
    hypotheses, problems = resolved(text)
    assert len(hypotheses) == 1
    expected = [("warning", "`claim` cannot be tested: 2 models, 3 are needed", f'"{level}"')]
    assert [(one.severity, one.what, marked(one, text)) for one in problems] == (expected if warned else [])

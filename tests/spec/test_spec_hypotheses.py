"""``[[hypotheses]]`` that no study could test."""

import pytest

from .specs import MINIMAL, mistakes

SIDES = 'left = { methods = "gptq" }\nright = { methods = "wanda" }\n'
HEAD = '[[hypotheses]]\nname = "claim"\n'


@pytest.mark.parametrize(
    ("keys", "what", "underlined"),
    [
        (SIDES, "`metric` is missing: bits_per_byte, kl_ratio, ppl_ratio, top1, snr, accuracy, gold_nats, size_mib", "[[hypotheses]]"),
        (f'metric = "kl_ration"\n{SIDES}', "there is no metric `kl_ration`; did you mean `kl_ratio`?", '"kl_ration"'),
        (f'metric = "bits_per_byte:boolq"\n{SIDES}', "there is no metric `bits_per_byte:boolq`; did you mean `bits_per_byte`?", '"bits_per_byte:boolq"'),
        (f'metric = "gold_nats"\nalternative = "no_worse"\n{SIDES}', "`no_worse` needs a `margin`: gold_nats has no default", "[[hypotheses]]"),
        (f'metric = "snr"\nalternative = "no_worse"\n{SIDES}', "`no_worse` needs a `margin`: snr has no default", "[[hypotheses]]"),
        ('metric = "kl_ratio"\nleft = { methods = "gptq" }\n', "`right` is missing: which variants are compared?", "[[hypotheses]]"),
        (f'metric = "accuracy"\ngeneralize = "languages"\n{SIDES}',
         "items of tasks are in no language here: generalize over windows (items) or models", '"languages"'),
        (f'metric = "kl_ratio"\ngeneralize = "models"\nby = "model"\n{SIDES}',
         "one model each says nothing of other models: leave `by` or `generalize` out", '"model"'),
        (f'metric = "kl_ratio"\nby = "task"\n{SIDES}', "kl_ratio is not measured by task", '"task"'),
        (f'metric = "accuracy"\nby = "language"\n{SIDES}', "accuracy is not measured by language", '"language"'),
        (f'metric = "accuracy:boolq"\nby = "task"\n{SIDES}', "accuracy:boolq is not measured by task", '"task"'),
        (f'metric = "kl_ratio"\n{SIDES}interaction = {{ of = "task", levels = [["a"], ["b"]] }}\n', "kl_ratio is not measured by task", '"task"'),
        (f'metric = "kl_ratio"\nby = "model"\n{SIDES}interaction = {{ of = "language", levels = [["a"], ["b"]] }}\n',
         "`interaction` already compares groups: leave `by` out", '"model"'),
        (f'metric = "kl_ratio"\ngeneralize = "models"\n{SIDES}interaction = {{ of = "language", levels = [["a"], ["b"]] }}\n',
         "an interaction is tested over its languages or tasks: leave `generalize` out", '"models"'),
        (f'metric = "size_mib"\nby = "language"\n{SIDES}', "sizes are compared, not tested: leave `by` out", '"language"'),
        (f'metric = "size_mib"\ngeneralize = "models"\n{SIDES}', "sizes are compared, not tested: leave `generalize` out", '"models"'),
        ('rank_agreement = ["kl_ratio", "size_mib"]\n', "sizes are compared, not tested", '"size_mib"'),
        ('rank_agreement = ["kl_ratio", "acuracy"]\n', "there is no metric `acuracy`; did you mean `accuracy`?", '"acuracy"'),
        ('rank_agreement = ["kl_ratio", "accuracy"]\nby = "model"\n',
         "`by` has no meaning with `rank_agreement`, which compares all variants", '"model"'),
        ('rank_agreement = ["kl_ratio", "accuracy"]\nmargin = 0.1\n',
         "`margin` has no meaning with `rank_agreement`, which compares all variants", "0.1"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_place(keys: str, what: str, underlined: str) -> None:
    assert mistakes(f"{MINIMAL}\n{HEAD}{keys}") == [(what, underlined)]


@pytest.mark.parametrize(
    "keys",
    [
        f'metric = "gold_nats"\nalternative = "no_worse"\nmargin = 0.01\n{SIDES}',
        f'metric = "bits_per_byte"\nalternative = "no_worse"\n{SIDES}',
        f'generalize = "models"\n{SIDES}',
        f'metric = "accuracy"\nby = "task"\n{SIDES}',
        f'metric = "accuracy"\nby = "model"\n{SIDES}',
        f'metric = "size_mib"\ncombine = "every"\n{SIDES}',
        'rank_agreement = ["kl_ratio", "accuracy:boolq"]\n',
    ],
)
def test_what_is_right_has_no_problems(keys: str) -> None:
    assert mistakes(f"{MINIMAL}\n{HEAD}{keys}") == []


def test_names_differ() -> None:
    tables = f'{HEAD}metric = "kl_ratio"\n{SIDES}' * 2
    assert mistakes(f"{MINIMAL}\n{tables}") == [("`claim` is listed twice", '"claim"')]

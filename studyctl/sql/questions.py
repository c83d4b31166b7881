"""Ready-made queries for the questions that a study answers. They are in ``questions.toml``."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from studyctl import toml


@dataclass(frozen=True, slots=True)
class Question:
    """A query with its title and an explanation."""

    title: str
    about: str
    """What the rows say, one or two sentences."""
    sql: str


@cache
def questions() -> tuple[Question, ...]:
    """Return all ready-made queries, the most common ones first."""
    text = files("studyctl.sql").joinpath("questions.toml").read_text(encoding="utf-8")
    return tuple(
        Question(row["title"], row["about"], row["sql"].strip()) for row in toml.read(text)["question"]
    )


def about_trial(trial_id: str) -> str:
    """Return the query that shows what is stored of one trial: its steps, figures and task values, one row each."""
    quoted = trial_id.replace("'", "''")
    return _ABOUT_TRIAL.format(trial=f"'{quoted}'")


_ABOUT_TRIAL = """\
-- everything that is stored of one trial
SELECT 'perplexity' AS kind, language AS name, perplexity AS value, dense_perplexity AS dense, ppl_ratio AS ratio, NULL AS p
FROM perplexity_vs_dense WHERE trial_id = {trial}
UNION ALL
SELECT metric, task, value, dense_value, NULL, mcnemar_p FROM tasks_vs_dense WHERE trial_id = {trial}
UNION ALL
SELECT 'seconds', stage, seconds, NULL, NULL, NULL FROM stages WHERE trial_id = {trial};
"""

"""The tables of the results database: columns, types and what they mean.

Checks and notebooks rely on these names; a unit is part of a name. The views are in ``views.sql``.
"""

from dataclasses import dataclass
from importlib.resources import files

VERSION = 5
"""Rises when a reader of this version would misread the file."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its DuckDB type, and its COMMENT."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its COMMENT, and its columns."""

    name: str
    comment: str
    columns: tuple[Column, ...]

    def ddl(self) -> str:
        """Return the statements that create and comment the table."""
        columns = ", ".join(f'"{column.name}" {column.type}' for column in self.columns)
        statements = [
            f"CREATE TABLE {self.name} ({columns})",
            f"COMMENT ON TABLE {self.name} IS {_quoted(self.comment)}",
            *(
                f'COMMENT ON COLUMN {self.name}."{one.name}" IS {_quoted(one.comment)}'
                for one in self.columns
            ),
        ]
        return ";\n".join(statements) + ";\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def views_sql() -> str:
    """Return the statements that create and comment the views."""
    return files("studyctl.store").joinpath("views.sql").read_text(encoding="utf-8")


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


LEAD = _columns(
    ("trial_id", "VARCHAR", "trial: a model times a variant (times a seed)"),
    ("model", "VARCHAR", "id of the model as in the spec"),
    ("method", "VARCHAR", "compression method; dense for the uncompressed model"),
    ("variant", "VARCHAR", "compression setting, such as awq-4bit-g64; dense for the uncompressed model"),
)
"""How every result table starts."""


def _results(name: str, comment: str, *rows: tuple[str, str, str]) -> Table:
    return Table(name, comment, (*LEAD, *_columns(*rows)))


_RUN = (
    ("host", "VARCHAR", "computer that ran it"),
    ("device", "VARCHAR", "device that computed it"),
    ("device_kind", "VARCHAR", "cpu or cuda; NULL: not recorded"),
    ("dtype", "VARCHAR", "type of weights and activations"),
)

TRIALS = _results(
    "trials",
    "one row a trial that the spec asks for",
    ("state", "VARCHAR", "pending, running, done, failed or stopped"),
    (
        "bits_per_weight",
        "DOUBLE",
        "bits that a weight of a block's linears costs, scales, zeros and masks included",
    ),
    ("sparsity", "DOUBLE", "fraction of those weights that is zero, 0 to 1"),
    ("compress_seconds", "DOUBLE", "time of the current compress step"),
    ("total_seconds", "DOUBLE", "time of all current steps together, load included"),
    ("peak_memory_bytes", "BIGINT", "highest peak of a current step"),
    ("error", "VARCHAR", "why it failed, on one line; NULL unless it did"),
    ("cause", "VARCHAR", "error, out_of_memory, killed or stopped; NULL unless it failed"),
    ("hint", "VARCHAR", "what to do about the failure"),
    ("stage", "VARCHAR", "step that runs now, or that failed"),
    ("stages", "INTEGER", "steps that the spec asks for, without load"),
    ("stages_done", "INTEGER", "steps among them whose result is stored"),
    ("attempts", "INTEGER", "attempts so far"),
    ("backend", "VARCHAR", "whose implementation compressed it"),
    ("backend_version", "VARCHAR", "version of that implementation"),
    ("seed", "BIGINT", "seed of the random choices; NULL when nothing is drawn"),
    ("options", "JSON", "settings of the method, defaults included"),
    ("calibration", "JSON", "text that the method looked at; NULL for methods without data"),
    ("started_at", "TIMESTAMP", "begin of the first attempt, UTC"),
    ("finished_at", "TIMESTAMP", "end of the newest current step, UTC"),
    *_RUN,
    ("available", "BOOLEAN", "false: its sources could not be looked up when the study was planned"),
    ("weights_key", "VARCHAR", "names everything that determines its weights"),
    ("position", "INTEGER", "place in the plan, from 0"),
)
ATTEMPTS = _results(
    "attempts",
    "one row an execution of a trial; those on weights that the spec no longer asks for included",
    ("attempt", "INTEGER", "number, from 1"),
    ("state", "VARCHAR", "running, done, failed or stopped (also: ended without a word)"),
    ("stage", "VARCHAR", "step that runs now, or that failed"),
    ("error", "VARCHAR", "why it failed, on one line"),
    ("cause", "VARCHAR", "error, out_of_memory, killed or stopped"),
    ("hint", "VARCHAR", "what to do about the failure"),
    ("seconds", "DOUBLE", "time from begin to end"),
    ("peak_memory_bytes", "BIGINT", "highest memory of its process or device"),
    ("started_at", "TIMESTAMP", "begin, UTC"),
    ("finished_at", "TIMESTAMP", "end, UTC; NULL when it runs or was killed"),
    *_RUN,
    ("pid", "BIGINT", "process"),
    ("threads", "INTEGER", "threads of tensor operations"),
    ("backend", "VARCHAR", "whose implementation compressed it"),
    ("backend_version", "VARCHAR", "version of that implementation"),
    ("studyctl", "VARCHAR", "version of studyctl"),
    ("versions", "JSON", "versions of the packages that computed it"),
    ("spec_hash", "VARCHAR", "names the spec at that time"),
    ("weights_key", "VARCHAR", "names everything that determines its weights"),
    ("current", "BOOLEAN", "whether the spec still asks for these weights"),
    ("journal", "VARCHAR", "file name of its journal"),
)
STEPS = _results(
    "steps",
    "one row a step of a trial: load, and each that the spec asks for; all windows of a language are one row",
    ("step", "VARCHAR", "load, compress, perplexity:<language>, task:<task> or export"),
    ("kind", "VARCHAR", "load, compress, perplexity, task or export"),
    ("subject", "VARCHAR", "language or task; NULL where there is none"),
    ("state", "VARCHAR", "pending, running, done, failed or stopped"),
    ("seconds", "DOUBLE", "the step's own work, without imports and loading (which is the step load)"),
    ("peak_memory_bytes", "BIGINT", "highest memory of its process or device until its end"),
    ("attempt", "INTEGER", "attempt whose result is current; of several, the newest"),
    ("finished_at", "TIMESTAMP", "end, UTC"),
    ("key", "VARCHAR", "names everything, beside weights and windows, that determines its result"),
    ("weights_hash", "VARCHAR", "hash of the weights that it made or measured"),
)
LAYERS = _results(
    "layers",
    "one row a compressed linear",
    ("block", "INTEGER", "decoder block, from 0"),
    ("linear", "VARCHAR", "name of the linear within its block"),
    (
        "relative_error",
        "DOUBLE",
        "size of the error of its outputs for a part of the calibration tokens, relative to theirs (Frobenius norms); of its weight without any",
    ),
    ("sparsity", "DOUBLE", "fraction of its weights that is zero, 0 to 1"),
    ("bits_per_weight", "DOUBLE", "bits that one of its weights costs"),
    ("seconds", "DOUBLE", "time to compress it"),
    ("weights", "BIGINT", "number of its weights"),
    (
        "damping",
        "DOUBLE",
        "damping that was needed, as a fraction of the mean diagonal of H; NULL where there is none",
    ),
)
PERPLEXITY = _results(
    "perplexity",
    "one row a language",
    ("language", "VARCHAR", "language of the text"),
    (
        "perplexity",
        "DOUBLE",
        "exp(nll_nats / tokens); comparable with the same tokenizer only; NULL when not finite",
    ),
    ("bits_per_byte", "DOUBLE", "nll_nats / ln 2 / bytes; comparable between tokenizers"),
    ("nll_nats", "DOUBLE", "negative log-likelihood, summed over the scored tokens"),
    ("tokens", "BIGINT", "scored tokens"),
    ("bytes", "BIGINT", "UTF-8 bytes of the scored text"),
    ("sequence_length", "INTEGER", "tokens of a window"),
    ("bos", "BOOLEAN", "whether each window begins with a BOS token"),
    ("windows", "INTEGER", "windows that were measured; NULL: measured before version 0.2"),
)
WINDOWS = _results(
    "windows",
    "one row a window of a language's text",
    ("language", "VARCHAR", "language of the text"),
    ("window", "INTEGER", "number of the window in the text, from 0"),
    ("nll_nats", "DOUBLE", "negative log-likelihood, summed over its scored tokens"),
    ("tokens", "INTEGER", "scored tokens"),
    ("place", "INTEGER", "place in the order in which windows are taken, from 0"),
    ("document", "INTEGER", "document of the text in which it begins, from 0"),
    ("bytes", "INTEGER", "UTF-8 bytes of these tokens"),
    ("characters", "INTEGER", "characters of these tokens"),
    ("kl_nats", "DOUBLE", "KL(dense || compressed), summed over its scored tokens"),
    ("top1", "INTEGER", "scored tokens whose likeliest token is the dense model's"),
    ("signal", "DOUBLE", "energy of the dense model's mean-centred logits, summed over its scored tokens"),
    ("noise", "DOUBLE", "energy of their difference to the compressed model's, likewise"),
)
FIDELITY = _results(
    "fidelity",
    "one row a language: distance to the dense model at the same positions",
    ("language", "VARCHAR", "language of the text"),
    ("kl_nats", "DOUBLE", "KL(dense || compressed), mean over tokens"),
    ("kl_p95_nats", "DOUBLE", "95th percentile of KL(dense || compressed) over tokens, to 2 %"),
    ("top1", "DOUBLE", "fraction of positions whose likeliest token is the dense model's, 0 to 1"),
    ("snr_db", "DOUBLE", "signal to noise of the mean-centred logits, energies pooled over all tokens"),
    ("tokens", "BIGINT", "positions compared"),
)
TASKS = _results(
    "tasks",
    "one row a metric of a task",
    ("task", "VARCHAR", "name of the task in lm-eval"),
    ("metric", "VARCHAR", "lm-eval's name without its filter, such as acc"),
    ("value", "DOUBLE", "value of the metric"),
    ("stderr", "DOUBLE", "standard error as lm-eval computes it"),
    ("items", "BIGINT", "items scored"),
    ("main", "BOOLEAN", "whether it is the task's main metric: lm-eval's first, or the spec's"),
    (
        "averaged",
        "BOOLEAN",
        "whether it is a main metric that means over tasks are taken of: a fraction, more is better",
    ),
    ("shots", "INTEGER", "examples before each item; NULL: measured before version 0.2"),
    ("limit", "INTEGER", "the first n items that were asked for; 0: all"),
)
ITEMS = _results(
    "items",
    "one row an item of a task",
    ("task", "VARCHAR", "name of the task in lm-eval"),
    ("item", "INTEGER", "lm-eval's doc_id"),
    ("gold", "INTEGER", "number of the right choice, from 0"),
    ("predicted", "INTEGER", "number of the choice with the highest log-likelihood, from 0"),
    ("correct", "TINYINT", "1 if right by the task's main metric, 0 if wrong; NULL where that is neither"),
    (
        "correct_norm",
        "TINYINT",
        "1 if right by log-likelihood a byte (acc_norm), else 0; NULL where the task has no acc_norm",
    ),
    ("loglikelihoods", "DOUBLE[]", "of the choices in their order, in nats"),
    ("score", "DOUBLE", "value of the task's main metric; NULL where items have none"),
    (
        "passage",
        "VARCHAR",
        "names the text that the item is about: items of one passage are no independent draws",
    ),
)
TASK_FLIPS = _results(
    "task_flips",
    "one row a metric of a task: the items paired with the dense model's",
    ("task", "VARCHAR", "name of the task in lm-eval"),
    ("metric", "VARCHAR", "the task's main metric, where items are right or wrong by it, or acc_norm"),
    ("items", "BIGINT", "items that both have"),
    ("right_to_wrong", "BIGINT", "items that the dense model has right and this one wrong"),
    ("wrong_to_right", "BIGINT", "items that the dense model has wrong and this one right"),
    ("mcnemar_p", "DOUBLE", "exact two-sided McNemar test of the two counts"),
)
INTERVALS = _results(
    "intervals",
    "one row a figure beside the dense model's: 95 % bootstrap interval, windows and items paired",
    (
        "measure",
        "VARCHAR",
        "ppl_ratio, or the metric whose change it is; main: the mean over tasks of their main metrics",
    ),
    ("subject", "VARCHAR", "language or task; NULL: the mean over all of them, geometric for ratios"),
    ("pairs", "BIGINT", "windows or items that both have; for a mean, languages or tasks in it"),
    ("low", "DOUBLE", "2.5th percentile of the drawn samples"),
    ("high", "DOUBLE", "97.5th percentile of the drawn samples"),
)
WARNINGS = _results(
    "warnings",
    "one row a finding that a reader of the results must know, from the attempts whose results are current",
    ("stage", "VARCHAR", "step that it is about"),
    ("message", "VARCHAR", "what was found"),
    ("attempt", "INTEGER", "attempt that found it"),
    ("at", "TIMESTAMP", "when, UTC"),
    ("details", "JSON", "further fields of the record"),
)
ABOUT = Table(
    "about",
    "one row: what this file is",
    _columns(
        ("schema_version", "INTEGER", "version of these tables"),
        ("study", "VARCHAR", "name of the study"),
        ("title", "VARCHAR", "title of the study"),
        ("notes", "VARCHAR[]", "what a reader of the results must know about the study as a whole"),
        ("spec_hash", "VARCHAR", "names the spec"),
        (
            "planned_at",
            "TIMESTAMP",
            "when the spec was planned, UTC; NULL if there is no plan and journals were taken as one",
        ),
        ("published_at", "TIMESTAMP", "when this file was made, UTC"),
        ("studyctl", "VARCHAR", "version of studyctl that made it"),
    ),
)

TABLES = (
    TRIALS, ATTEMPTS, STEPS, LAYERS, PERPLEXITY, WINDOWS, FIDELITY, TASKS, ITEMS, TASK_FLIPS, INTERVALS, WARNINGS, ABOUT,
)  # fmt: skip

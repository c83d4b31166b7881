"""How long it takes to publish a million item rows, against DuckDB's ``executemany``."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from benchmarks.page import note, table
from benchmarks.timing import Timing, in_turns, timed
from studyctl.contract.records import Items, TaskFigure
from studyctl.files import StudyPaths
from studyctl.journal.parts import keep_texts, write_items
from studyctl.store.publish import publish
from studyctl.store.schema import create_schema
from tests.store.builder import FakeStudy, item_table, item_texts

MODELS = 40
TASKS = 5
ROWS = 1_000_000
NAIVE_SHARE = 0.01
"""Of the rows that the peer inserts; its time is scaled."""
ROUNDS = 3
GOAL_SECONDS = 2.0


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        study = FakeStudy(
            folder / "large",
            languages=(),
            tasks=tuple(f"task{number}" for number in range(TASKS)),
            models=tuple(f"org/model{number}" for number in range(MODELS)),
        )
        rows = _record(study)
        timings = in_turns(
            {
                "publish": lambda: timed(lambda: publish(study.paths)),
                "executemany": lambda: _naive(study.paths, folder / "naive.duckdb", int(rows * NAIVE_SHARE)),
            },
            ROUNDS,
        )
    naive = Timing(tuple(seconds / NAIVE_SHARE for seconds in timings["executemany"].rounds))
    ours = timings["publish"]
    table(
        (f"{rows:,} item rows", "median (extremes)", "ratio"),
        [
            ("publish", str(ours), f"{ours.median / naive.median:.5f} ×"),
            (f"executemany of {NAIVE_SHARE:.0%}, scaled up", str(naive), "1.00 ×"),
        ],
    )
    note(f"goal: under {GOAL_SECONDS:g} s; {len(study.trials())} trials; {ROUNDS} rounds in turns")


def _record(study: FakeStudy) -> int:
    """Write a finished attempt of every trial, as a worker does it; return how many item rows there are."""
    study.write_plan()
    trials = study.trials()
    count = ROWS // len(trials) // TASKS + 1
    tables = {
        (task, variant): item_table(task, variant, range(count))
        for task in study.tasks
        for variant in study.variants
    }
    for trial in trials:
        attempt = study.attempt(trial["trial"])
        if trial["variant"] != "dense":
            attempt.run("compress")
        for task in study.tasks:
            stage = f"task:{task}"
            attempt.begin(stage)
            part = write_items(
                study.paths, attempt.name, attempt.number, task, tables[task, trial["variant"]]
            )
            texts = keep_texts(study.paths, task, item_texts(task, range(count)))
            attempt.writer.write(Items(task=task, part=part.name, rows=count, texts=texts.name))
            attempt.writer.write(TaskFigure(task=task, metric="acc", value=0.5, stderr=0.1, items=count))
            attempt.end(stage)
        attempt.finish()
    return count * TASKS * len(trials)


def _naive(paths: StudyPaths, file: Path, count: int) -> float:
    """Return the seconds of inserting ``count`` published rows into a new file, row by row."""
    with closing(duckdb.connect(str(paths.database), read_only=True)) as connection:
        rows = connection.execute(f"FROM items LIMIT {count}").fetchall()
    places = ", ".join("?" * len(rows[0]))
    file.unlink(missing_ok=True)
    with closing(duckdb.connect(str(file))) as connection:
        create_schema(connection)
        connection.execute("BEGIN")  # or every row would be synced to the disk by itself
        return timed(lambda: connection.executemany(f"INSERT INTO items VALUES ({places})", rows))

"""The study's journal of notes: what people wrote about its trials. Of each trial the newest note counts; an empty one removes it."""

import psutil

from studyctl.contract.records import Noted
from studyctl.errors import StudyError
from studyctl.files import StudyPaths, file_lock
from studyctl.journal.files import JournalTail, JournalWriter

PATIENCE_SECONDS = 5.0
"""How long to wait while somebody else writes a note."""


def write_note(paths: StudyPaths, trial: str, text: str) -> None:
    """Append a note about a trial.

    Raises:
        StudyError: the journal is damaged, or cannot be written.
    """
    from filelock import Timeout

    try:
        paths.control.mkdir(parents=True, exist_ok=True)
        with file_lock(paths.control / "notes.lock", PATIENCE_SECONDS), JournalWriter(paths.notes) as journal:
            journal.write(Noted(about=trial, text=text, by=psutil.Process().username()))
    except (OSError, Timeout) as error:
        raise StudyError(
            f"the note cannot be written: {error}",
            file=paths.notes,
            hint="only users who can write in the study's folder can add notes",
        ) from error


def read_notes(paths: StudyPaths) -> dict[str, Noted]:
    """Return the note of each trial that has one, by the trial's name.

    Raises:
        StudyError: the journal is damaged in the middle.
    """
    newest = {
        record.about: record for record in JournalTail(paths.notes).new_records() if isinstance(record, Noted)
    }
    return {trial: note for trial, note in newest.items() if note.text}

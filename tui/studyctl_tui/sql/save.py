"""Saving a query under a name."""

from studyctl.errors import StudyError
from studyctl.sql.saved import NameTaken, save_query
from studyctl_tui.sql.naming import NameDialog, Refused

LONGEST = 60
"""Maximum characters of a name: the list of questions shows it on one line."""


class SaveDialog(NameDialog[str]):
    """Asks for the name; returns it."""

    def __init__(self, sql: str, name: str) -> None:
        super().__init__("Save this query, for every study", name, "enter saves · esc closes")
        self._sql = sql

    def trouble_with(self, name: str) -> str:
        """Return why a name will not do."""
        if len(name) > LONGEST:
            return f"a name has at most {LONGEST} characters, this one has {len(name)}"
        return "" if name else "a name is needed, such as: worst languages"

    def write(self, name: str, *, replace: bool) -> str:
        """Save it."""
        try:
            save_query(name, self._sql, replace=replace)
        except NameTaken as error:
            why = f"a query with the name {name} exists already: enter once more replaces it"
            raise Refused(why, may_replace=True) from error
        except StudyError as error:
            raise Refused(f"{error.problems[0].what}; {error.problems[0].hint}") from error
        return name

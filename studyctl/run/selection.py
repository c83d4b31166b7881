"""The part of a study to run."""

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from studyctl.errors import Problem, SpecError, did_you_mean
from studyctl.plan.trials import Trial


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a study that the user asked for: trials that match shell patterns."""

    only: tuple[str, ...] = ()
    """Patterns of variants or trials; empty: all."""
    model: tuple[str, ...] = ()
    """Patterns of models; empty: all."""

    def __contains__(self, trial: Trial) -> bool:
        return matches(self.only, _names(trial)) and matches(self.model, _models(trial))

    def check(self, trials: Collection[Trial]) -> None:
        """Refuse patterns that no trial of a study matches.

        Raises:
            SpecError: a pattern, or all of them together, leave nothing to run.
        """
        problems = [
            *_unknown(self.only, "variant or trial", {name for trial in trials for name in _names(trial)}),
            *_unknown(self.model, "model", {name for trial in trials for name in _models(trial)}),
        ]
        if not problems and not any(trial in self for trial in trials):
            problems = [Problem(f"no trial of this study matches {self}", hint="`studyctl plan` lists them")]
        if problems:
            raise SpecError(problems)

    def __str__(self) -> str:
        return shlex.join(self.arguments())

    def arguments(self) -> list[str]:
        """Return it as options of ``studyctl run``."""
        options = {"--only": self.only, "--model": self.model}
        return [part for option, patterns in options.items() for text in patterns for part in (option, text)]


def _names(trial: Trial) -> tuple[str, ...]:
    return trial.variant.name, trial.id


def _models(trial: Trial) -> tuple[str, ...]:
    return trial.model.spec.id, trial.model.spec.short_name


def matches(patterns: Collection[str], names: Collection[str]) -> bool:
    """Return whether a pattern matches a name, or there is no pattern. A name also matches itself, even if it has brackets."""
    return not patterns or any(
        name == pattern or fnmatchcase(name, pattern) for name in names for pattern in patterns
    )


def _unknown(patterns: Collection[str], kind: str, names: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for every pattern that matches none of the names."""
    for pattern in patterns:
        if not matches([pattern], names):
            is_beginning = matches([f"{pattern}*"], names)
            close = f"did you mean `{pattern}*`?" if is_beginning else did_you_mean(pattern, sorted(names))
            hint = close or "`studyctl plan` lists what there is"
            yield Problem(f"no {kind} of this study is called `{pattern}`", hint=hint)

"""How a run ended."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    done: int = 0
    """Trials that this run finished."""
    failed: dict[str, str] = field(default_factory=dict)
    """Error by trial."""
    unavailable: int = 0
    """Trials that this machine cannot run: the plan says what is missing."""
    tried: int = 0
    """Attempts that were started."""
    stopped: bool = False
    seconds: float = 0.0

    def summary(self, study: str) -> str:
        """Return one line for people and for ``on_finish``."""
        if not self.tried and not self.stopped:
            rest = f" ({self.unavailable} trials are not available here)" if self.unavailable else ""
            return f"{study}: nothing to do, everything that was asked for is stored{rest}"
        end = "stopped" if self.stopped else "finished"
        parts = [f"{study} {end}: {self.done} trials done", f"{len(self.failed)} failed"]
        if self.unavailable:
            parts.append(f"{self.unavailable} not available here")
        return ", ".join(parts)

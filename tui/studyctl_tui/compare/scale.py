"""How bad a figure looks: five steps, each with a glyph, and a shade where the theme has shades."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text
from textual.app import App
from textual.color import Color

GLYPHS = "▁▂▃▅▇"
"""Of the steps, the harmless one first."""
_BLEND = (0.0, 0.12, 0.22, 0.33, 0.45)
"""How much of the theme's error colour is mixed into its background: text stays readable on each."""
_SIXTEEN = (Style(), Style(), Style(color="yellow"), Style(color="red"), Style(color="red", bold=True))


@dataclass(frozen=True, slots=True)
class Scale:
    """Four bounds between five steps."""

    bounds: tuple[float, float, float, float]
    """From harmless to bad; rising when high is bad, falling when low is."""

    @property
    def low_is_bad(self) -> bool:
        """Whether a low figure is a bad one."""
        return self.bounds[0] > self.bounds[-1]

    def step(self, value: float) -> int:
        """Return how bad a figure is, 0 to 4."""
        return sum(value < bound if self.low_is_bad else value > bound for bound in self.bounds)

    def legend(self, show: Callable[[float], Text]) -> str:
        """Return ``▁ ≤1.02 ▂ ≤1.1 … ▇ more``."""
        sign, rest = ("≥", "less") if self.low_is_bad else ("≤", "more")
        steps = [
            f"{glyph} {sign}{_short(show(bound).plain)}"
            for glyph, bound in zip(GLYPHS, self.bounds, strict=False)
        ]
        return " ".join([*steps, f"{GLYPHS[-1]} {rest}"])


def _short(figure: str) -> str:
    return figure.rstrip("0").rstrip(".") if "." in figure else figure


class Shades:
    """The looks of the steps in the theme of now."""

    def __init__(self) -> None:
        self._theme: tuple[str, bool] | None = None
        self._styles: tuple[Style, ...] = ()

    def of(self, app: App[str]) -> tuple[Style, ...]:
        """Return a style for each step; worked out again when the theme has changed."""
        theme = (app.theme, app.native_ansi_color)
        if theme != self._theme:
            self._theme, self._styles = theme, _styles(app)
        return self._styles


def _styles(app: App[str]) -> tuple[Style, ...]:
    if app.native_ansi_color:
        return _SIXTEEN
    colors = app.theme_variables
    background, error = Color.parse(colors["background"]), Color.parse(colors["error"])
    text = Color.parse(colors["foreground"]).rich_color
    return tuple(Style(color=text, bgcolor=background.blend(error, part).rich_color) for part in _BLEND)

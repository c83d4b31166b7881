"""Three themes: dark, light, and one that takes the terminal's own 16 colours."""

from textual.theme import Theme

DARK = Theme(
    name="studyctl-dark",
    primary="#6cb6ff",
    secondary="#a5d6a7",
    accent="#f0b35b",
    success="#7ccf7c",
    warning="#f0b35b",
    error="#ff7b72",
    foreground="#d7dce2",
    background="#12161c",
    surface="#181d25",
    panel="#222935",
    dark=True,
)
LIGHT = Theme(
    name="studyctl-light",
    primary="#0b5cad",
    secondary="#2e7d32",
    accent="#a15c00",
    success="#1b7f2a",
    warning="#8a5a00",
    error="#b3261e",
    foreground="#1d232b",
    background="#fbfbf9",
    surface="#f2f3f0",
    panel="#e3e6e2",
    dark=False,
)
SIXTEEN = Theme(
    name="studyctl-16",
    primary="ansi_blue",
    secondary="ansi_green",
    accent="ansi_yellow",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    ansi=True,
    dark=True,
    variables={
        "border": "ansi_blue",
        "border-blurred": "ansi_bright_black",
        "block-cursor-foreground": "ansi_black",
        "block-cursor-background": "ansi_white",
        "block-cursor-blurred-foreground": "ansi_black",
        "block-cursor-blurred-background": "ansi_bright_black",
        "input-cursor-background": "ansi_white",
        "input-cursor-foreground": "ansi_black",
        "input-selection-background": "ansi_blue",
        "input-selection-foreground": "ansi_white",
        "screen-selection-background": "ansi_blue",
        "screen-selection-foreground": "ansi_white",
    },
)
THEMES = (DARK, LIGHT, SIXTEEN)

"""Names of variants where there is little room for them."""

_LEAST = 7
"""Characters of ``@backend`` that tell it from the others."""


def shortened(name: str, width: int) -> str:
    """Return a name of at most so many characters: of ``setting@backend`` both are told, where both have room."""
    if len(name) <= width:
        return name
    setting, at, backend = name.partition("@")
    if not at or width < 2 * _LEAST - 2:
        return _cut(name, width)
    room = min(len(backend) + 1, max(_LEAST, width - len(setting)))
    return _cut(setting, width - room) + _cut(at + backend, room)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…" if width else ""

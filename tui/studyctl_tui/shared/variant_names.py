"""Short names of variants."""

_LEAST = 7
"""Characters of ``@backend`` that distinguish the backends."""


def shortened(name: str, width: int) -> str:
    """Return a name cut to a width; of ``setting@backend`` both are cut, if the width is enough for both."""
    if len(name) <= width:
        return name
    setting, at, backend = name.partition("@")
    if not at or width < 2 * _LEAST - 2:
        return _cut(name, width)
    room = min(len(backend) + 1, max(_LEAST, width - len(setting)))
    return _cut(setting, width - room) + _cut(at + backend, room)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…" if width else ""

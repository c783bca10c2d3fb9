"""How values and words of the command line are written in messages."""

from __future__ import annotations

from typing import Any


def as_typed(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return printable(str(value))


def shown(value: Any) -> str:
    """The same, with numbers in six figures at most."""
    return f"{value:g}" if isinstance(value, float) else as_typed(value)


def printable(text: str) -> str:
    """The text in one line: line breaks and what no terminal shows as escapes, also bytes that are not text."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)

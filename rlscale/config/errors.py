"""Errors that the user can act on: shown as plain lines without a traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can change; the message names the key or file and says what to do."""


class ConfigError(UserError):
    """A configuration that cannot run; one line per problem, all of them together."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


def first_line(error: BaseException) -> str:
    """Of what the error says; where that is nothing (`MemoryError` does so), what kind of error it is."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Of what the error says, where it says first where it was raised; or what kind of error it is."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]

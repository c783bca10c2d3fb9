"""What a check says of a machine or of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How bad it is."""

    ok = "OK"
    warning = "warning"
    problem = "problem"


@dataclass(frozen=True)
class Finding:
    """A line: what was found, and what to do about it."""

    verdict: Verdict
    what: str
    remedy: str = ""

    def line(self, check: str, where: str = "") -> str:
        """The line as it is printed; `where` is the machine, "" where there is one only."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.verdict.value:<8} {f'{where}: ' if where else ''}{check}: {self.what}{remedy}"


def ok(what: str) -> Finding:
    """All is as it should be."""
    return Finding(Verdict.ok, what)


def warning(what: str, remedy: str) -> Finding:
    """The run starts, and may be slow or end."""
    return Finding(Verdict.warning, what, remedy)


def problem(what: str, remedy: str) -> Finding:
    """The run cannot start or will end."""
    return Finding(Verdict.problem, what, remedy)

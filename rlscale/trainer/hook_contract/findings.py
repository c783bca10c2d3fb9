"""What the contract tests of a hook found: one `Finding` per check, whatever number of cases it was tried on."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

_T = TypeVar("_T")

TOLERANCE = 1e-6
"""Two results that should be the same may differ by this share of the larger of 1 and the value."""


class Status(Enum):
    """How a check ended."""

    passed = "pass"
    warned = "warn"
    failed = "fail"
    noted = "note"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    """Its name."""
    status: Status
    """A warning is something to look at that may be meant, a note is not a check; only `failed` breaks the contract."""
    expected: str
    """What the contract asks for."""
    found: str
    """What the hook did, with numbers."""

    def __str__(self) -> str:
        return f"{self.status.value}  {self.check:<19}  expected: {self.expected}; found: {self.found}"


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Those that break the contract, for `assert not failed(check_loss(my_loss))`."""
    return [finding for finding in findings if finding.status is Status.failed]


class HookStoppedError(Exception):
    """The hook cannot be tested any further."""


class Report:
    """Collects findings. Of the cases of one check the first that did not pass is kept, else the last."""

    def __init__(self) -> None:
        self._by_check: dict[str, Finding] = {}
        self._largest: dict[str, float] = {}
        self._cases: Counter[str] = Counter()

    @property
    def findings(self) -> list[Finding]:
        """One per check, in the order of their first case."""
        return [self._counted(finding) for finding in self._by_check.values()]

    def add(self, check: str, expected: str, passed: bool, found: str, *, otherwise: Status = Status.failed) -> None:
        """One case of a check; `otherwise` is the status where it did not pass."""
        status = Status.passed if passed else otherwise
        self._cases[check] += 1
        known = self._by_check.get(check)
        if (
            known is None
            or known.status is Status.passed
            or (known.status is Status.warned and status is Status.failed)
        ):
            self._by_check[check] = Finding(check, status, expected, found)

    def same(self, check: str, expected: str, got: ArrayLike, want: ArrayLike, where: str) -> None:
        """Whether two arrays hold the same numbers, up to `TOLERANCE`. `where` names the case."""
        one, other = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            off = np.abs(one - other) / np.maximum(np.abs(other), 1.0)
        worst = float(np.max(np.where(np.isnan(off), np.inf, off), initial=0.0))
        self._largest[check] = largest = max(self._largest.get(check, 0.0), worst)
        if worst <= TOLERANCE:
            self.add(check, expected, True, f"the same to {largest:.1e}")
            return
        at = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        self.add(check, expected, False, f"{one[at]:.6g} instead of {other[at]:.6g} ({where})")

    def call(self, where: str, hook: Callable[..., _T], *given: Any, **named: Any) -> _T:
        """Call the hook; what it raises, SystemExit included, is a finding and the end of the test."""
        try:
            result = hook(*given, **named)
        except (Exception, SystemExit) as error:
            raise self._stopped_by(error, where) from error
        self.add("call", _CALL, True, "it returns")
        return result

    async def awaited(self, where: str, seconds: float, hook: Callable[..., Awaitable[_T]], *given: Any) -> _T:
        """The same for a hook that is awaited; one that takes longer than so many seconds ends the test, too."""
        try:
            async with asyncio.timeout(seconds) as limit:
                result = await hook(*given)
        except (Exception, SystemExit) as error:
            if limit.expired():
                self.add("call", _CALL, False, f"no answer within {seconds:g} s ({where})")
                raise HookStoppedError from error
            raise self._stopped_by(error, where) from error
        self.add("call", _CALL, True, "it returns")
        return result

    def _stopped_by(self, error: BaseException, where: str) -> HookStoppedError:
        """Note what a hook raised; what ends the test."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
        text = " ".join(f"{type(error).__name__}: {error}".split())
        self.add("call", _CALL, False, f"{text} at {place} ({where})")
        return HookStoppedError()

    def _counted(self, finding: Finding) -> Finding:
        tried = self._cases[finding.check]
        if finding.status is not Status.passed or tried == 1:
            return finding
        return replace(finding, found=f"{finding.found}, {tried} times")

    def stop_if_failed(self, *checks: str) -> None:
        """End the test where one of these checks failed: the others could not read the result."""
        if any(finding.check in checks for finding in failed(self.findings)):
            raise HookStoppedError


_CALL = "no exception"


@contextmanager
def reported() -> Iterator[Report]:
    """A report; a hook that cannot be tested any further ends the block."""
    report = Report()
    try:
        yield report
    except HookStoppedError:
        return

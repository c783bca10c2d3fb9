"""How long a call may take by how long such calls took before: one that hangs is noticed long before its deadline.

The deadline of all calls has to allow for the longest of a large run, half an hour; a step that takes two seconds and
is not back after two minutes is not going to be. So every kind of call is measured, and its limit is a multiple of the
longest of its kind.
"""

from __future__ import annotations

_SILENCES = 6.0
"""No limit is below so many times the silence that is granted to a process: a machine may halt for a while."""
_FACTOR_AT_STOP, _LEAST_AT_STOP_S = 3.0, 8.0
"""The same once the user wants the run to end, and waits for it. Then the first calls of a kind have a limit, too: they
may hang as any others."""


class HangLimits:
    """The limits of each kind of call, in seconds."""

    def __init__(self, factor: float | None, silence_s: float) -> None:
        """`factor`: how many times the longest call before; None: no call has a limit before the run is to end.

        `silence_s`: how long a process that is waited for may be silent.
        """
        self._factor, self._least_s = factor, _SILENCES * silence_s
        self._longest: dict[str, float] = {}
        self._ever: dict[str, float] = {}
        """The same with those that warmed up."""
        self._warm: set[str] = set()
        """Kinds of which those who are called have made one."""

    def of(self, kind: str, *, stopping: bool = False) -> tuple[float, str] | None:
        """The limit of a call of this kind, a shorter one where the run is `stopping`, and what it is made of.

        As `20 times the longest before, 0.9 s, but at least 120 s`. None for the first of those who are called, which
        compiles and warms up whatever it needs, and until another one has shown how long they take without that; in a
        run that is `stopping` these have the limit of one that takes as long as the longest that warmed up, of
        whatever kind where there was none of this: while nothing has been called there is nothing to be lost.
        """
        if stopping:
            longest = self._ever.get(kind, max(self._ever.values(), default=0.0))
            of = "before" if kind in self._ever else "of all calls before"
            factor = min(self._factor or _FACTOR_AT_STOP, _FACTOR_AT_STOP)
            least_s = min(self._least_s, _LEAST_AT_STOP_S)
        elif self._factor is None or kind not in self._warm or kind not in self._longest:
            return None
        else:
            longest, factor, least_s, of = self._longest[kind], self._factor, self._least_s, "before"
        made_of = f"{factor:g} times the longest {of}, {longest:.3g} s, but at least {least_s:g} s"
        return max(factor * longest, least_s), made_of

    def took(self, kind: str, seconds: float) -> None:
        """A call took so long; of the next the first of those who are called says only how long it may take at most."""
        self._ever[kind] = max(self._ever.get(kind, 0.0), seconds)
        if kind in self._warm:
            self._longest[kind] = max(self._longest.get(kind, 0.0), seconds)
        self._warm.add(kind)

    def others(self) -> None:
        """Others are called from now on, who have to warm up."""
        self._warm.clear()

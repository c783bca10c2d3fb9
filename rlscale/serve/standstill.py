"""Whether an engine that answers gets on: one that hangs, or whose detokenizer is frozen, gives requests no tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rlscale.platform.sglang_passes import Passes, passes_of
from rlscale.serve.http import CallError, Unanswered, call
from rlscale.serve.progress_endpoint import PATH
from rlscale.serve.pulse import Patience, answers

_INFO = "/server_info"
"""Answered by the scheduler, between two passes."""
_FRUITLESS = 1000
"""Decoding passes after which some request must have got a token: answers in parts come every 50 or 64 tokens."""


class Standstill:
    """For how long an engine has had requests, was not paused, and gave none of them a token nor an end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._pause = Patience(clock), Patience(clock)
        self._moves: int | None = None
        self._passes: Passes | None = None
        self._decoded_then = 0
        self._stands = self._rests = False
        self.worked = False
        """Whether it was seen to make passes: it has compiled and loaded what it needs."""

    def hear(self, told: Mapping[str, Any], passes: Passes | None = None) -> None:
        """What the engine says at PATH, and the passes that it has begun, where it tells."""
        moves = int(told["moves"])
        self._stands = bool(told["requests"]) and not told["paused"] and moves == self._moves
        if moves != self._moves:
            self._decoded_then = passes.decoding if passes is not None else 0
        works = self.hear_passes(passes)
        fruitless = passes is not None and passes.decoding - self._decoded_then >= _FRUITLESS
        self._rests = self._stands and (fruitless or not works)
        self._moves = moves

    def hear_passes(self, passes: Passes | None) -> bool:
        """Whether there are more than before."""
        more = passes is not None and self._passes is not None and passes.begun != self._passes.begun
        self._passes, self.worked = passes, self.worked or more
        return more

    def seconds(self) -> float:
        """Up to now, of which somebody looked; 0 where it gets on, or has nothing to do."""
        return self._patience.look(self._stands)

    def without_a_pass(self) -> float:
        """For how many of these it made no pass either, or only passes that gave nothing; all, where it tells none."""
        return self._pause.look(self._rests)


def ask_engine(url: str, api_key: str | None, timeout_s: float, standstill: Standstill, *, alone: bool = False) -> None:
    """Returns once the engine's scheduler has answered, and said how it gets on.

    CallError if it has not within `timeout_s`. One of another kind may know neither, and then nothing stands still.
    `alone`: its requests wait for other engines, and nothing is expected of it but an answer.
    """
    passes = passes_of(answers(url, _INFO, api_key, timeout_s))
    if alone:
        standstill.hear_passes(passes)
        return
    try:
        standstill.hear(call(url, PATH, api_key, timeout=timeout_s), passes)
    except Unanswered:
        raise
    except (CallError, KeyError, TypeError, ValueError):
        return

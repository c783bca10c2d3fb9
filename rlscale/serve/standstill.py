"""Whether an engine that answers gets on: one that hangs, or whose detokenizer is frozen, gives requests no tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rlscale.serve.http import CallError, Unanswered, call
from rlscale.serve.progress_endpoint import PATH
from rlscale.serve.pulse import Patience, answers


class Standstill:
    """For how long an engine has had requests, was not paused, and gave none of them a token nor an end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = Patience(clock)
        self._moves: int | None = None
        self._stands = False

    def hear(self, told: Mapping[str, Any]) -> None:
        """What the engine says at PATH."""
        moves = int(told["moves"])
        self._stands = bool(told["requests"]) and not told["paused"] and moves == self._moves
        self._moves = moves

    def seconds(self) -> float:
        """Up to now, of which somebody looked; 0 where it gets on, or has nothing to do."""
        return self._patience.look(self._stands)


def ask_engine(url: str, path: str, api_key: str | None, timeout_s: float, standstill: Standstill) -> None:
    """Returns once the engine has answered at `path`, which its scheduler does, and said how it gets on.

    CallError if it has not within `timeout_s`. One of another kind may know neither, and then nothing stands still.
    """
    answers(url, path, api_key, timeout_s)
    try:
        standstill.hear(call(url, PATH, api_key, timeout=timeout_s))
    except Unanswered:
        raise
    except (CallError, KeyError, TypeError, ValueError):
        return

"""An engine that somebody else started and a run uses: does it answer, get on, and have the weights of the run."""

from __future__ import annotations

import time
from collections.abc import Callable

from rlscale.serve.pulse import Pulse, answers
from rlscale.serve.standstill import Standstill, ask_engine

_MODEL = "/model_info"
_ASKED_S = 10.0


class Guest:
    """What is known of one. There is no process of it that could be looked at."""

    def __init__(self, url: str, api_key: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.url, self._key = url, api_key
        self._pulse, self._standstill = Pulse(self.ask, clock), Standstill(clock)
        self._has_weights = False
        self.restarted = False
        """Whether it has no weights of an update any more: whoever started it has started it again."""

    def ask(self) -> None:
        """How does it get on, and whose weights has it. CallError if it does not answer."""
        ask_engine(self.url, self._key, _ASKED_S, self._standstill)
        says = answers(self.url, _MODEL, self._key, _ASKED_S)
        if isinstance(says, dict) and "weight_version" in says:
            updated = str(says["weight_version"]).isdecimal()  # else the word that it begins with
            self.restarted = self.restarted or (self._has_weights and not updated)
            self._has_weights = updated

    def silence(self) -> float:
        """For how many seconds it has not answered."""
        return self._pulse.silence()

    def wrong(self, patience_s: float) -> str | None:
        """What has been wrong with it for so long, if anything has.

        Its scheduler answers between two passes. So one that answers, has made no pass since it did before and has
        given no request a token is in no long pass: it gets nowhere.
        """
        if self.silence() >= patience_s:
            return "does not answer"
        still = self._standstill.without_a_pass() >= patience_s
        return f"gave none of its requests a token for {patience_s:g} s" if still else None

"""How many passes an SGLang scheduler has begun, told with its state: whoever asks twice sees whether it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.platform.adapting import adapts_now

PASSES = "rlscale_passes"
"""The key in the internal state of each of a server's schedulers."""


def adapt_scheduler(scheduler: Any) -> None:
    """SGLang's class of that name."""
    if not adapts_now(scheduler, PASSES):
        return
    state = scheduler.get_internal_state

    def get_internal_state(self: Any, request: Any) -> Any:
        answer = state(self, request)
        answer.internal_state[PASSES] = self.forward_ct
        return answer

    scheduler.get_internal_state = get_internal_state


def passes_of(server_info: Any) -> int | None:
    """Passes of all schedulers of the server that says so at /server_info; None for one that does not tell."""
    if not isinstance(server_info, Mapping):
        return None
    told = [state.get(PASSES) for state in server_info.get("internal_states") or () if isinstance(state, Mapping)]
    counts = [count for count in told if isinstance(count, int)]
    return sum(counts) if counts else None

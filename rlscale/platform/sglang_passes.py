"""How many passes an SGLang scheduler has begun, told with its state: whoever asks twice sees whether it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlscale.platform.adapting import adapts_now

KEY = "rlscale_passes"
"""Where the internal state of each of a server's schedulers has them: all, and those that only decode."""
_DECODING = "rlscale_decoding_passes"


class Passes(NamedTuple):
    """Of an engine, since it started."""

    begun: int
    decoding: int
    """Those of them that read no prompt: each gives every running request a token."""


def adapt_scheduler(scheduler: Any) -> None:
    """SGLang's class of that name."""
    if not adapts_now(scheduler, KEY):
        return
    state, run = scheduler.get_internal_state, scheduler.run_batch
    setattr(scheduler, _DECODING, 0)

    def run_batch(self: Any, batch: Any, *arguments: Any, **keywords: Any) -> Any:
        if batch.forward_mode.is_decode():
            setattr(self, _DECODING, getattr(self, _DECODING) + 1)
        return run(self, batch, *arguments, **keywords)

    def get_internal_state(self: Any, request: Any) -> Any:
        answer = state(self, request)
        answer.internal_state[KEY] = [self.forward_ct, getattr(self, _DECODING)]
        return answer

    scheduler.run_batch, scheduler.get_internal_state = run_batch, get_internal_state


def passes_of(server_info: Any) -> Passes | None:
    """Those of all schedulers of the server that says so at /server_info; None for one that does not tell."""
    if not isinstance(server_info, Mapping):
        return None
    states = [state for state in server_info.get("internal_states") or () if isinstance(state, Mapping)]
    told = [state[KEY] for state in states if KEY in state]
    return Passes(sum(begun for begun, _ in told), sum(decoding for _, decoding in told)) if told else None

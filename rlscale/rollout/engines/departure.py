"""Engines that leave while a run goes on, or are of no use to it any more: what they generate goes on in others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from rlscale.config.errors import UserError
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Cuts
from rlscale.rollout.engines.engine_loads import work_of
from rlscale.rollout.engines.generation import RequestFailed

_AGAIN_S = 0.02
"""Seconds between two calls that abort: a request may have been on its way to the engine at the first."""
_LONGEST_S = 30.0
_ANSWERED_S = 5.0
"""Seconds in which an engine that gets on answers a request that is cut off: the longest that a pass takes."""


async def empty(client: EngineClient, cuts: Cuts, urls: Sequence[str]) -> None:
    """Cut off every request under way in these engines, which the router has left out; returns once none is.

    An engine that does not say what it has to do is left as it is. UserError where others keep asking it.
    """
    give_up = asyncio.get_running_loop().time() + _LONGEST_S
    client.set_aside(urls)
    try:
        with cuts.cutting():
            while busy := await _busy(client, urls):
                if asyncio.get_running_loop().time() > give_up:
                    raise UserError(
                        f"{', '.join(busy)} still had requests after {_LONGEST_S:g} s: others ask it, too; "
                        "end those first"
                    )
                await asyncio.gather(*map(client.abort_at, busy))
                await asyncio.sleep(_AGAIN_S)
    finally:
        client.set_aside(())


async def _busy(client: EngineClient, urls: Sequence[str]) -> list[str]:
    """Those of the engines that say that they have something to do."""
    work = await asyncio.gather(*(work_of(client, url) for url in urls))
    return [url for url, count in zip(urls, work, strict=True) if count]


async def give_up(client: EngineClient, cuts: Cuts, urls: Sequence[str]) -> None:
    """Wait no longer for what is under way in these engines, which the router has left out, and which get nowhere.

    Nobody knows which requests those are, as the router chose. So all are cut off, which the other engines answer with
    the tokens that there are. What has no answer then is broken off: it is sent again with those that had come.
    """
    waiting, pause_s = client.under_way.now(), _AGAIN_S
    with cuts.cutting(), suppress(TimeoutError):
        async with asyncio.timeout(_ANSWERED_S):
            while waiting & client.under_way.now():
                with suppress(RequestFailed):  # a router that is silent for a moment is asked again
                    others = [url for url in await client.engines() if url not in urls]
                    await asyncio.gather(*map(client.abort_at, others))
                await asyncio.sleep(pause_s)
                pause_s *= 2
    client.under_way.break_off(waiting)

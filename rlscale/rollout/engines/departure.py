"""Engines that leave while a run goes on: what they generate goes on in others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rlscale.config.errors import UserError
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Cuts
from rlscale.rollout.engines.engine_loads import work_of

_AGAIN_S = 0.02
"""Seconds between two calls that abort: a request may have been on its way to the engine at the first."""
_LONGEST_S = 30.0


async def empty(client: EngineClient, cuts: Cuts, urls: Sequence[str]) -> None:
    """Cut off every request under way in these engines, which the router has left out; returns once none is.

    An engine that does not say what it has to do is left as it is. UserError where others keep asking it.
    """
    give_up = asyncio.get_running_loop().time() + _LONGEST_S
    client.set_aside(urls)
    try:
        while True:
            work = await asyncio.gather(*(work_of(client, url) for url in urls))
            busy = [url for url, count in zip(urls, work, strict=True) if count]
            if not busy:
                return
            if asyncio.get_running_loop().time() > give_up:
                raise UserError(
                    f"{', '.join(busy)} still had requests after {_LONGEST_S:g} s: others ask it, too; end those first"
                )
            cuts.count += 1  # each time: one that was on its way before may have begun since the last
            await asyncio.gather(*map(client.abort_at, busy))
            await asyncio.sleep(_AGAIN_S)
    finally:
        client.set_aside(())

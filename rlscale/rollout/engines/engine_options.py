"""What the engines behind a client say of the options that they were started with."""

from __future__ import annotations

import asyncio

from rlscale.config.derived.streaming import sends_parts
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import RequestFailed


async def all_send_parts(client: EngineClient) -> bool:
    """Whether every engine hands over long responses while it generates them; one that does not say so does not."""
    try:
        urls = await client.engines()
        told = await asyncio.gather(*(client.ask_at(url, "/server_info") for url in urls))
    except RequestFailed:
        return False
    return bool(told) and all(isinstance(info, dict) and sends_parts(info) for info in told)

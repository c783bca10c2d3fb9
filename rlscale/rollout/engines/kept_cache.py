"""Engines that go on with requests under new weights and keep the cache of the old ones: what is exact, and what not.

So do other people's engines (`rollout.engine_urls`) with `rollout.on_sync=in_place`; those that a run starts empty
their cache in the pause (`rlscale.platform.sglang_paused_flush`). Requests name the version that they begin with, under
which alone the engine looks for prefixes: a request that begins after a sync finds nothing of older weights. One that
a sync meets goes on with keys and values of the old weights, so that its tokens from there on are of neither.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import numpy as np

from rlscale.config.derived.paused_flush import MARK
from rlscale.config.errors import UserError
from rlscale.data.batches.fields import APPROXIMATE
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import Generation, RequestFailed


class KeptCache:
    """The hook of a client whose engines keep their cache (`EngineClient.kept_cache`)."""

    def __init__(self, version: int) -> None:
        """`version`: of the weights that engines hold."""
        self.version = version
        # Engines outlive a run, and what they keep: another one counts the same versions with other weights.
        self._run = secrets.token_hex(4)

    def begin(self, body: dict[str, Any]) -> int:
        """Keep a request, given by its body, apart from those of other versions; the version that it begins with."""
        body["extra_key"] = f"{self._run}-{self.version}"
        return self.version

    def marked(self, found: Generation, version: int) -> Generation:
        """The answer, which says of each token whether it is of other weights than the request began with.

        Those are approximate, also where the engine read the prompt after the sync: it may have found a part of it in
        its cache, from before.
        """
        return replace(found, columns={**found.columns, APPROXIMATE: np.asarray(found.versions != version)})


async def keep_their_cache(client: EngineClient) -> bool:
    """Whether any of the client's engines keeps it in a pause. UserError where one does not answer."""
    for url in await client.engines():
        try:
            info = await client.ask_at(url, "/server_info")
        except RequestFailed as error:
            raise UserError(f"rollout.engine_urls: {url} does not say whether it keeps its cache ({error})") from error
        states = info.get("internal_states") or [{}]
        if not all(state.get(MARK) for state in states):
            return True
    return False

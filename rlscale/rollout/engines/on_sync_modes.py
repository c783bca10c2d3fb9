"""What becomes of requests under way when the weights change: `rollout.on_sync`, one class per way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from rlscale.config.schema.rollout_config import OnSync
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient, RequestFailed
from rlscale.rollout.engines.continued import Cuts

_AGAIN_S = 0.02
"""Seconds between two calls that abort: a request may have been on its way to the engine at the first."""


class OnSyncMode(Protocol):
    """Makes engines ready for an update, and generates again after it."""

    async def pause(self) -> None:
        """Returns once the update may be sent."""

    def resume(self) -> None:
        """The engines have the new weights."""


def on_sync_mode(kind: OnSync, admission: Admission, client: EngineClient, cuts: Cuts) -> OnSyncMode:
    """The way that a run is configured for."""
    if kind is OnSync.wait:
        return Wait(admission)
    if kind is OnSync.abort_and_resume:
        return AbortAndResume(admission, client, cuts)
    return Keep(admission)


class Wait:
    """Requests are answered first; no other is sent meanwhile."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def pause(self) -> None:
        """See OnSyncMode."""
        await self._admission.close()

    def resume(self) -> None:
        """See OnSyncMode."""
        self._admission.open()


class AbortAndResume(Wait):
    """Requests are cut off, and sent again with their tokens once the engines have the new weights (`Continued`)."""

    def __init__(self, admission: Admission, client: EngineClient, cuts: Cuts) -> None:
        super().__init__(admission)
        self._client, self._cuts = client, cuts
        self._known: list[str] = []  # the engines of the last time

    async def pause(self) -> None:
        """See OnSyncMode. Every engine is told again and again to abort, until every request has been answered.

        Those of the last time are told at once, while the router is asked for the present ones.
        """
        closed = asyncio.create_task(self._admission.close())
        await asyncio.sleep(0)  # where nothing is under way it has ended now
        if closed.done():
            return
        self._cuts.count += 1
        try:
            while not closed.done():
                found, _ = await asyncio.gather(self._engines(), self._abort(self._known))
                await self._abort([url for url in found if url not in self._known])
                self._known = found
                await asyncio.wait([closed], timeout=_AGAIN_S)
        finally:
            closed.cancel()

    async def _abort(self, urls: Sequence[str]) -> None:
        await asyncio.gather(*map(self._client.abort_at, urls))

    async def _engines(self) -> list[str]:
        try:
            return await self._client.engines()
        except RequestFailed:
            return self._known  # a router that is being restarted: asked again


class Keep:
    """Requests go on until the engine gets the weights, wait in it, and go on with them.

    The one who sends the weights pauses the engine (`rlscale.serve.receiver.EngineReceiver`): there is nothing to do.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def pause(self) -> None:
        """See OnSyncMode."""

    def resume(self) -> None:
        """See OnSyncMode."""
        self._admission.open()

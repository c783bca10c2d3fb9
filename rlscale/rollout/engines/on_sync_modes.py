"""What becomes of requests under way when the weights change: `rollout.on_sync`, one class per way.

All engines get the weights at once (`pause`), or some of them while the others generate (`drain`,
`weights.max_engines_at_once`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from rlscale.config.schema.rollout_config import OnSync
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Cuts
from rlscale.rollout.engines.engine_loads import work_of
from rlscale.rollout.engines.generation import RequestFailed

_AGAIN_S = 0.02
"""Seconds between two calls that abort: a request may have been on its way to the engine at the first."""
_LOOK_AGAIN_S = 0.5
"""Seconds, at the most, between two looks whether an engine has nothing more to do."""


class OnSyncMode(Protocol):
    """Makes engines ready for an update, and generates again after it."""

    async def pause(self) -> None:
        """Returns once the update may be sent."""

    async def drain(self, urls: Sequence[str]) -> None:
        """Returns once the update may be sent to these engines, which the router does not know any more.

        The others go on. The next call of any of these methods ends this one.
        """

    def resume(self) -> None:
        """The engines have the new weights."""


def on_sync_mode(kind: OnSync, admission: Admission, client: EngineClient, cuts: Cuts, engines: int = 1) -> OnSyncMode:
    """The way that a run of so many engines is configured for."""
    if kind is OnSync.wait:
        return Wait(admission, client, engines)
    if kind is OnSync.abort_and_resume:
        return AbortAndResume(admission, client, engines, cuts)
    return Keep(admission, client, engines)


class Keep:
    """Requests go on until the engine gets the weights, wait in it, and go on with them.

    The one who sends the weights pauses the engine (`rlscale.serve.receiver.EngineReceiver`): there is nothing to do.
    """

    def __init__(self, admission: Admission, client: EngineClient, engines: int) -> None:
        self._admission, self._client, self._engines = admission, client, engines
        self._calls = 0  # of drain and resume

    async def pause(self) -> None:
        """See OnSyncMode."""

    async def drain(self, urls: Sequence[str]) -> None:
        """See OnSyncMode."""
        self._set_aside(urls)

    def resume(self) -> None:
        """See OnSyncMode."""
        self._set_aside(())
        self._admission.open()

    def _set_aside(self, urls: Sequence[str]) -> None:
        self._calls += 1
        self._client.set_aside(urls)
        self._admission.withheld = 0


class Wait(Keep):
    """Requests are answered first; no other is sent meanwhile."""

    async def pause(self) -> None:
        """See OnSyncMode."""
        await self._admission.close()

    async def drain(self, urls: Sequence[str]) -> None:
        """See OnSyncMode."""
        self._set_aside(urls)
        call, pause_s = self._calls, _AGAIN_S
        while await self._busy(urls, call):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOOK_AGAIN_S)

    async def _busy(self, urls: Sequence[str], call: int) -> list[str]:
        """Those of the engines that have something to do; none once another call came.

        Places that are free in these engines are nobody's: the others have their own.
        """
        found = await asyncio.gather(*(work_of(self._client, url) for url in urls))
        if self._calls != call:
            return []
        places = self._admission.limit // self._engines
        self._admission.withheld = sum(max(places - work, 0) for work in found if work is not None)
        return [url for url, work in zip(urls, found, strict=True) if work != 0]


class AbortAndResume(Wait):
    """Requests are cut off, and sent again with their tokens once the engines have the new weights (`Continued`)."""

    def __init__(self, admission: Admission, client: EngineClient, engines: int, cuts: Cuts) -> None:
        super().__init__(admission, client, engines)
        self._cuts = cuts
        self._known: list[str] = []  # the engines of the last time

    async def pause(self) -> None:
        """See OnSyncMode. Every engine is told again and again to abort, until every request has been answered.

        Those of the last time are told at once, while the router is asked for the present ones.
        """
        closed = asyncio.create_task(self._admission.close())
        await asyncio.sleep(0)  # where nothing is under way it has ended now
        if closed.done():
            return
        try:
            with self._cuts.cutting():
                while not closed.done():
                    found, _ = await asyncio.gather(self._present(), self._abort(self._known))
                    await self._abort([url for url in found if url not in self._known])
                    self._known = found
                    await asyncio.wait([closed], timeout=_AGAIN_S)
        finally:
            closed.cancel()

    async def drain(self, urls: Sequence[str]) -> None:
        """See OnSyncMode. What is cut off is sent to the other engines."""
        self._set_aside(urls)
        call = self._calls
        with self._cuts.cutting():
            while busy := await self._busy(urls, call):
                await self._abort(busy)
                await asyncio.sleep(_AGAIN_S)

    async def _abort(self, urls: Sequence[str]) -> None:
        await asyncio.gather(*map(self._client.abort_at, urls))

    async def _present(self) -> list[str]:
        try:
            return await self._client.engines()
        except RequestFailed:
            return self._known  # a router that is being restarted: asked again

"""Scores by a service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rlscale.config.errors import UserError
from rlscale.envs.reward import RewardFailed
from rlscale.envs.rewards.service_client import Answered, ServiceClient
from rlscale.envs.score import Failed, Score, score_of

_Waiting = Sequence[tuple[dict[str, Any], "asyncio.Future[Any]"]]
"""Items, and where their answers go."""
_ONE = "a number, null, {score, parts} or {failed}"


class RemoteReward:
    """Posts `{"items": [{"response", "label", "info", "prompt"}, ...]}` and reads `{"scores": [...]}`, one for each.

    A score is a number, or `{"score": 1.0, "parts": {"style": 0.5}}`; null or `{"failed": "why"}` where the service
    cannot tell. Items that come within `gather_s` go together, up to `batch`. `timeout_s`: for each try of a request;
    `reward.timeout_s` bounds them all. Retries and the key are as in ServiceClient. Where a request of several items
    fails, they are sent alone, one after another; an item that the service refuses then (HTTP 400, 413, 422) while it
    scores others is wrong, and all else has failed, as a service that breaks may only have too much to do.
    """

    def __init__(
        self,
        url: str,
        batch: int = 64,
        gather_s: float = 0.02,
        timeout_s: float = 30.0,
        retries: int = 3,
        key_file: str | None = None,
    ) -> None:
        if batch < 1:
            raise UserError(f"batch={batch}: must be at least 1")
        self._client = ServiceClient(url, timeout_s=timeout_s, retries=retries, key_file=key_file)
        self._batch, self._gather_s, self._works = batch, gather_s, False
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[Any]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._requests: set[asyncio.Task[None]] = set()

    async def __call__(self, response: str, label: Any, info: dict[str, Any], prompt: str = "") -> Score | Failed:
        """The service's score. RewardFailed if it cannot be had."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(({"response": response, "label": label, "info": info, "prompt": prompt}, future))
        if len(self._waiting) >= self._batch:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._gather_s, self._send)
        return _score(await future)

    def _send(self) -> None:
        """Ask for all that wait, in a task of their own: a caller that gives up does not take the others with it."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting, self._timer = self._waiting, [], None
        if waiting:
            task = asyncio.get_running_loop().create_task(self._ask(waiting), name="remote rewards")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _ask(self, waiting: _Waiting) -> None:
        try:
            await self._ask_together(waiting)
        finally:
            for _, future in waiting:
                if not future.done():
                    future.set_result(Failed("the reward service was not waited for"))

    async def _ask_together(self, waiting: _Waiting) -> None:
        """Where a request of several fails, each is asked for alone: one may be to blame."""
        try:
            scores = await self._given([item for item, _ in waiting])
        except Exception as error:
            if len(waiting) > 1:
                await self._ask_alone(waiting)
            else:
                _tell(waiting[0][1], _blamed(error, self._works))
            return
        for (_, future), score in zip(waiting, scores, strict=True):
            _tell(future, score)

    async def _ask_alone(self, waiting: _Waiting) -> None:
        """One after another: a service that could not do a batch must not get as many requests at once instead."""
        failed: list[tuple[asyncio.Future[Any], Exception]] = []
        for item, future in waiting:
            if future.done():  # its caller has given up
                continue
            try:
                (score,) = await self._given([item])
            except Exception as error:
                failed.append((future, error))
            else:
                _tell(future, score)
        for future, fault in failed:
            _tell(future, _blamed(fault, self._works))

    async def _given(self, items: Sequence[dict[str, Any]]) -> list[Any]:
        answer = await self._client.post({"items": list(items)})
        given = answer.get("scores") if isinstance(answer, Mapping) else None
        if not isinstance(given, list) or len(given) != len(items):
            raise RewardFailed(f"the reward service must answer {{scores: [...]}} with {len(items)} scores")
        self._works = True
        return given


def _blamed(error: BaseException, works: bool) -> Score | Failed:
    """What comes of an item without an answer: it is wrong where the service has scored others and refuses it."""
    if isinstance(error, Answered) and works and error.refuses:
        return Score(0.0, crash=f"the reward service: {error}")
    return Failed(str(error) or type(error).__name__)


def _tell(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _score(answer: Any) -> Score | Failed:
    if isinstance(answer, Failed | Score):
        return answer
    if answer is None:
        return Failed("the reward service could not tell")
    if isinstance(answer, Mapping) and "failed" in answer:
        return Failed(f"the reward service could not tell: {answer['failed']}")
    value, parts = (answer.get("score"), answer.get("parts", {})) if isinstance(answer, Mapping) else (answer, {})
    try:
        if isinstance(value, bool) or not isinstance(parts, Mapping):
            raise ValueError
        return Score(score_of(value), {str(name): score_of(part) for name, part in parts.items()})
    except ValueError:
        return Failed(f"the reward service answered {str(answer)[:80]!r}, which is not {_ONE}")

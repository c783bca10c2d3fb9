"""Talking to an engine or to the router in front of several: token ids in, token ids and log-probs out."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import aiohttp
import numpy as np
from numpy.typing import NDArray

from rlscale.config.derived.needed_weights import NeededWeights
from rlscale.config.derived.request_headers import ROUTED_EXPERTS_HEADER, SAMPLING_SUPPORT_HEADER, TRAJECTORY_HEADER
from rlscale.rollout.engines.answer_reading import generation_of
from rlscale.rollout.engines.busy_times import BusyTimes
from rlscale.rollout.engines.connection import REFUSALS, Connect, HttpConnection
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.preemptions import Preemptions
from rlscale.rollout.engines.request_spans import RequestSpans
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.engines.shared_calls import SHORT, SharedCalls
from rlscale.rollout.engines.speculated import Speculated
from rlscale.rollout.engines.streamed_answer import StreamedAnswer, in_parts
from rlscale.rollout.engines.under_way import UnderWay

_log = logging.getLogger(__name__)

_UNAVAILABLE = REFUSALS | {502}
"""Answers of a router that has no healthy engine or too many requests, and of an engine that is starting."""
_NOBODY = "call_upstream_request_error"
"""What a router says, with status 500, where the engine that it chose for an answer in parts is not there."""


class CacheHook(Protocol):
    """What a client does where engines keep their cache under new weights (`rlscale.rollout.engines.kept_cache`)."""

    version: int
    """Of the weights that engines hold."""

    def begin(self, body: dict[str, Any]) -> int:
        """Change the body of a request that is about to be sent; gives what `marked` is to know of it."""

    def marked(self, found: Generation, version: int) -> Generation:
        """Its answer with what is to be said of it."""


class EngineClient:
    """Requests to one URL.

    A request that breaks or times out is sent again up to `retries` times. While the other end is not there at all
    (connection refused, 503), it is tried again until `timeout_s` has passed: a dead engine is being restarted then.
    Both are counted in `retried`, because an engine may have sampled such a request twice. Short requests that are made
    at the same moment share calls (`SharedCalls`).
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 3,
        connections: int = 256,
        connect: Connect = HttpConnection,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._connection = connect(api_key, timeout_s, connections)
        self.under_way = UnderWay()
        self._shared = SharedCalls(self._connection, self._ready, self._sent_in_vain, self.under_way)
        self._pace = random.Random(0)
        self.adapter: str | None = None
        """The adapter that engines are to compute with; None for their weights alone."""
        self.retried = 0
        """Requests that were sent again although an engine may have sampled them."""
        self.in_parts = False
        """Whether answers to long requests are asked for in parts, over HTTP."""
        self.interrupted = 0
        """Requests whose engine ended under them, after it had sent some of their tokens."""
        self.kept_cache: CacheHook | None = None
        self.preemptions = Preemptions()
        self.speculated = Speculated()
        self.requests, self.busy = RequestSpans(), BusyTimes()

    def redirect(self, url: str) -> None:
        """Send requests to `url` from now on, also those that are being sent again."""
        self._url = url.rstrip("/")

    async def generate(
        self,
        token_ids: NDArray[np.int32],
        sampling: SamplingParams,
        seed: int,
        rid: str | None = None,
        experts: ExpertSizes | None = None,
        trajectory: str | None = None,
        weights: NeededWeights | None = None,
    ) -> Generation:
        """Continue `token_ids` (int [n]). RequestFailed if there is no answer, or none that can be used.

        An engine without these `weights` refuses before it samples, and the router tries another. Where answers come
        `in_parts`, one that breaks off after some of them is `interrupted`, and not sent again.

        `rid` names the request for `abort`. With the sizes of the model's `experts` the answer says which were chosen.
        Requests of one `trajectory` go to one engine, as long as it lives; they share no calls.
        """
        body: dict[str, Any] = {
            "input_ids": token_ids.tolist(),
            "sampling_params": sampling.body(seed),
            "return_logprob": True,
        }
        body |= self._named_adapter() | ({} if rid is None else {"rid": rid})
        headers = _ask_for_more(body, sampling, experts, weights)
        if trajectory is not None:
            headers[TRAJECTORY_HEADER] = trajectory
        version = -1 if self.kept_cache is None else self.kept_cache.begin(body)
        answer, began = None, (asyncio.get_running_loop().time(), time.time())
        if rid is None and trajectory is None and sampling.max_new_tokens <= SHORT:
            answer = await self._shared.ask(body, headers)
        if answer is None:
            streams = self.in_parts and experts is None and in_parts(sampling.max_new_tokens)
            answer = await self._post("/generate", body, headers, streams)
        found = generation_of(answer, len(token_ids), experts, sampling.names_support, sampling.words)
        self._answered(answer["meta_info"], began, found)
        if self.kept_cache is not None:
            found = self.kept_cache.marked(found, version)
        if sampling.relative_temperature is not None:
            found = found.at_temperature(sampling.relative_temperature)
        return found.of_all_words() if sampling.names_all else found

    def _answered(self, meta: Mapping[str, Any], began: tuple[float, float], found: Generation) -> None:
        """What an answer tells besides what was generated. `began`: by the clock of the loop, and since 1970."""
        self.preemptions.answered(began[0], meta, found.versions)
        self.speculated.answered(meta)
        self.requests.answered(began[1], meta)
        self.busy.answered(began[1], meta)

    async def score(self, token_ids: NDArray[np.int32], **fields: Any) -> NDArray[np.float32]:
        """Log-probs of the given tokens at temperature 1, float32 [n]; the first, which nothing predicts, is 0.

        `fields`: what the request says besides.
        """
        body = {
            "input_ids": token_ids.tolist(),
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0, "sampling_seed": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
            **self._named_adapter(),
            **fields,
        }
        answer = await self._post("/generate", body)
        entries = answer["meta_info"]["input_token_logprobs"]
        return np.array([entry[0] or 0.0 for entry in entries], np.float32)

    async def handed_over(
        self, token_ids: NDArray[np.int32], generates: str, new_tokens: int, fields: Mapping[str, Any]
    ) -> Generation:
        """What the engine at `generates` continues the tokens with once the engine here has read them; temperature 1.

        `fields`: how the two find each other (`rlscale.serve.paired.together`).
        """
        sampling = {"max_new_tokens": new_tokens, "temperature": 1.0, "sampling_seed": 0, "ignore_eos": True}
        body = {"input_ids": token_ids.tolist(), "sampling_params": sampling, "return_logprob": True, **fields}
        both = self._told(self._url + "/generate", body), self._told(generates + "/generate", body)
        _, answer = await asyncio.gather(*both)
        return generation_of(answer, len(token_ids))

    async def abort(self, rid: str | None = None) -> None:
        """Abort one request, or all of them. For engines only: a router does not pass it on."""
        await self._post("/abort_request", {"rid": rid or "", "abort_all": rid is None})

    async def engines(self, ready: bool = False) -> list[str]:
        """The engines behind this URL: a router's workers, or the engine itself.

        `ready`: only those in use that answer a request by themselves.
        """
        status, answer = await self._tried(self._url + "/workers")
        if status != 200:
            return [self._url]
        return [str(worker["url"]) for worker in answer["workers"] if not ready or _answers_alone(worker)]

    def set_aside(self, urls: Collection[str]) -> None:
        """Begin no call to these engines of one's own choice, but to all others; whom a router asks is up to it."""
        self._shared.aside = frozenset(urls)

    def calls_at(self, url: str) -> int:
        """Calls under way to the engine at `url` that this client chose itself."""
        return self._shared.under_way[url]

    async def load_at(self, url: str) -> Any:
        """What the engine at `url` says of its load (`LoadReport.of`). RequestFailed if it does not say."""
        return await self._told(url + "/v1/loads?include=core")

    async def ask_at(self, url: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer of the engine at `url` to what a router does not pass on. RequestFailed if there is none."""
        return await self._told(url + path, body)

    async def abort_at(self, url: str) -> None:
        """Abort every request of the engine at `url`; what it does not hear is not said again."""
        try:
            await self._tried(url + "/abort_request", {"rid": "", "abort_all": True})
        except RequestFailed as error:
            _log.warning("requests could not be aborted: %s", error)

    async def close(self) -> None:
        """Close the connections; requests under way fail."""
        await self._shared.close()
        await self._connection.close()

    def _named_adapter(self) -> dict[str, Any]:
        return {} if self.adapter is None else {"lora_path": self.adapter}

    async def _ready(self) -> list[str]:
        try:
            return await self.engines(ready=True)
        except RequestFailed:
            return []

    async def _told(self, url: str, body: dict[str, Any] | None = None) -> Any:
        """A good answer of a single try. RequestFailed if there is none."""
        status, answer = await self._tried(url, body)
        if status != 200:
            raise RequestFailed(f"{url}: HTTP {status}: {str(answer)[:300]}")
        return answer

    async def _tried(self, url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and answer of a single try. RequestFailed if there is no answer."""
        try:
            if body is None:
                return await self._connection.get(url)
            return await self._connection.post(url, body, {})
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            raise RequestFailed(f"{url}: {type(error).__name__} {error}".strip()) from error

    def _sent_in_vain(self, requests: int) -> None:
        self.retried += requests

    async def _post(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None, streams: bool = False
    ) -> Any:
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._timeout_s
        broken, wait_s = 0, 0.25
        while True:
            heard = StreamedAnswer() if streams else None
            try:
                return await self._post_once(path, body, headers or {}, heard)
            except _Unavailable as error:
                if heard is not None and (kept := heard.kept) is not None:
                    self.interrupted += 1  # said in a later part, by an engine that is about to end
                    return kept
                if clock() + wait_s > give_up:
                    raise RequestFailed(f"{self._url} was not available for {self._timeout_s:g} s: {error}") from error
                self.retried += not isinstance(error, _Refused)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if heard is not None and (kept := heard.kept) is not None:
                    self.interrupted += 1
                    return kept
                broken += 1
                if broken > self._retries:
                    reason = f"{type(error).__name__} {error}".strip()
                    raise RequestFailed(f"{self._url}{path}: {reason}, sent {broken} times") from error
                _log.info("a request to %s is sent again: %s %s", self._url, type(error).__name__, error)
                self.retried += 1
            # not in step with others: two that want different weights would find the wrong engine each time
            await asyncio.sleep(wait_s * self._pace.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, 2.0)

    async def _post_once(
        self, path: str, body: dict[str, Any], headers: dict[str, str], heard: StreamedAnswer | None
    ) -> Any:
        url, connection = self._url + path, self._connection
        try:
            async with self.under_way.waiting():
                if heard is not None and isinstance(connection, HttpConnection):
                    status, answer = await connection.post_in_parts(url, {**body, "stream": True}, headers, heard)
                else:
                    status, answer = await connection.post(url, body, headers)
        except ConnectionRefusedError as error:
            raise _Refused(str(error)) from error
        if status in _UNAVAILABLE or (status == 500 and _NOBODY in str(answer)):
            why = f"HTTP {status} {str(answer or '')[:300]}".strip()
            raise _Refused(why) if status in REFUSALS else _Unavailable(why)
        if status != 200:
            text = str(answer)[:300]
            if status < 500:
                raise RequestFailed(f"{self._url}{path}: HTTP {status}: {text}")
            raise aiohttp.ClientPayloadError(f"HTTP {status}: {text}")
        return answer


class _Unavailable(Exception):
    """Nobody there, for now."""


class _Refused(_Unavailable):
    """And no engine has sampled anything."""


def _answers_alone(worker: Mapping[str, Any]) -> bool:
    """Whether a router's worker is in use, and does not share its requests with one that does another part of them."""
    return bool(worker.get("is_healthy", True)) and worker.get("worker_type", "regular") == "regular"


def _ask_for_more(
    body: dict[str, Any], sampling: SamplingParams, experts: ExpertSizes | None, weights: NeededWeights | None
) -> dict[str, str]:
    """Say in the body what is wanted besides tokens and their log-probs; headers of what the router drops from it."""
    headers: dict[str, str] = {} if weights is None else weights.headers
    if experts is not None:
        body["return_routed_experts"] = True
        headers[ROUTED_EXPERTS_HEADER] = "1"
    if sampling.names_support:
        body["return_sampling_mask"] = True
        headers[SAMPLING_SUPPORT_HEADER] = "1"
    if sampling.words:
        body["top_logprobs_num"] = sampling.words
    return headers

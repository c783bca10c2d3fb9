"""A simulated engine that a contract asks a component to use, and that keeps what it answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from rlscale.config.schema.simulator_config import LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.spans import versions_of
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import Answer, SimulatedEngine

_T = TypeVar("_T")
_ANSWER_S = 30.0
_CONFIG = SimulatedEngineConfig(decode_s=0.001, context=4096, slots=64, lengths=LengthsConfig(median=8.0, sigma=0.5))


class EngineAnswer(NamedTuple):
    """What was generated for one request."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]


class RecordedEngine:
    """`with RecordedEngine(key) as engine:` listens at `engine.url`.

    It runs on a thread of its own, so that also a component that blocks its event loop is answered.
    """

    def __init__(self, api_key: str, answers: set[EngineAnswer]) -> None:
        """`answers`: where what it answers is kept, several engines' together."""
        self._api_key = api_key
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulated engine", daemon=True)
        self.asked = 0
        """Requests to generate so far."""
        self.answers = answers
        self.url = ""

    def __enter__(self) -> RecordedEngine:
        self._thread.start()
        self._engine: SimulatedEngine = self._run(self._made())
        self._endpoint = SimulatedEndpoint(self._engine, self._api_key)
        self._run(self._endpoint.__aenter__())
        self.url = self._endpoint.url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._endpoint.__aexit__(kind, error, trace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_S)
        self._loop.close()

    @property
    def busy(self) -> int:
        """Requests that run or wait in it."""
        return self._engine.requests

    def give(self, version: int) -> None:
        """New weights of a version."""
        body = {"model_path": f"weights of version {version}", "weight_version": str(version), "flush_cache": True}
        self._run(self._engine.call("/update_weights_from_disk", body))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_S)

    async def _made(self) -> SimulatedEngine:
        return _Recorded(self)

    def note(self, answer: Any) -> None:
        """Keep an answer to a request, or to several."""
        for one in answer if isinstance(answer, list) else [answer]:
            meta = one["meta_info"]
            entries = meta["output_token_logprobs"]
            versions = tuple(versions_of(meta, len(entries)).tolist())
            logprobs = tuple(float(entry[0]) for entry in entries)
            self.answers.add(EngineAnswer(tuple(entry[1] for entry in entries), logprobs, versions))


class _Recorded(SimulatedEngine):
    def __init__(self, record: RecordedEngine) -> None:
        super().__init__(_CONFIG)
        self._record = record

    async def call(self, path: str, body: Any = None) -> Answer:
        """See SimulatedEngine."""
        if path != "/generate":
            return await super().call(path, body)
        ids = (body or {}).get("input_ids") or [[]]
        self._record.asked += len(ids) if isinstance(ids[0], list) else 1
        status, answer = await super().call(path, body)
        if status == 200:
            self._record.note(answer)
        return status, answer

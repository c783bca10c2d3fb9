"""What a simulated engine has to do: which requests run, wait for room or for a pause to end, and get their answer."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.platform.sglang_passes import Passes
from rlscale.serve.simulator.engine_answers import answer_to, load_report
from rlscale.serve.simulator.engine_request import EngineRequest
from rlscale.serve.simulator.prefix_cache import PrefixCache
from rlscale.serve.simulator.response_lengths import ResponseLengths
from rlscale.serve.simulator.running_batch import RunningBatch, Slot
from rlscale.serve.simulator.started_responses import StartedResponses

NEVER_TOLD = "default"
"""The weight version before the first update."""


class EngineScheduler:
    """The requests of one process of an engine, from its start until it ends or dies.

    `tick` brings it to the present moment; whoever changes something calls `settle` afterwards.
    """

    def __init__(self, config: SimulatedEngineConfig, lengths: ResponseLengths, started: StartedResponses) -> None:
        self._config, self._lengths, self._started = config, lengths, started
        self.version, self.weights = NEVER_TOLD, 0
        self.batch: RunningBatch[EngineRequest] = RunningBatch(config)
        self.preemptions = 0
        self._prefixes = PrefixCache()
        self._waiting: deque[Slot[EngineRequest]] = deque()
        self._slots: dict[EngineRequest, Slot[EngineRequest]] = {}
        self._open: dict[EngineRequest, Slot[EngineRequest]] = {}  # of calls that have no answer yet
        self.paused = False
        self._held = self._read = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def tokens(self) -> int:
        """Tokens that it has generated so far, those of requests that still run included."""
        return self.batch.tokens + sum(self.batch.generated(slot) - slot.done for slot in self.batch.slots())

    @property
    def in_flight(self) -> int:
        """Generated tokens of requests that run or wait."""
        return sum(self.batch.generated(slot) for slot in self._slots.values())

    @property
    def unanswered(self) -> int:
        """Generated tokens of calls that have no answer yet."""
        return sum(self.batch.generated(slot) for slot in self._open.values())

    @property
    def passes(self) -> Passes:
        """Steps of its batch, and prompts that it has begun to read."""
        decoding = int(self.batch.steps)
        return Passes(decoding + self._read, decoding)

    @property
    def updating(self) -> bool:
        """Whether it is paused, or takes weights."""
        return self.paused or self._held > 0

    def __len__(self) -> int:
        """Requests that run or wait."""
        return len(self._slots)

    # -- requests -----------------------------------------------------------------------------------------------------

    def accept(self, request: EngineRequest) -> None:
        """Queue a request, with the length that its response will have."""
        before = self._started.before(request.seed, len(request.tokens))
        prompt = request.tokens[: len(request.tokens) - before]
        drawn = self._lengths.draw(zlib.crc32(prompt.tobytes()), request.seed) - before
        length = max(drawn, request.least, 1)
        self._started.asked_for(request.seed, min(length, request.most))
        room = max(1, self._config.cache_tokens - len(request.tokens))
        if length > min(request.most, room):
            length, request.finish = min(request.most, room), "length"
        if request.least >= request.most:
            request.finish = "length"
        slot = Slot(request, len(request.tokens), length)
        self._slots[request] = self._open[request] = slot
        self._idle.clear()
        self._waiting.append(slot)

    def forget(self, request: EngineRequest) -> None:
        """The client has its answer, or has gone: then the engine works no more for it."""
        self._open.pop(request, None)
        slot = self._slots.get(request)
        if slot is not None:
            self.tick()
            self._take_out(slot)
            self.settle()

    def end(self, chosen: Callable[[EngineRequest], bool]) -> None:
        """Answer the chosen requests with what they have."""
        for request, slot in list(self._slots.items()):
            if chosen(request):
                ran = slot in self.batch
                self._take_out(slot)
                if ran and not self.batch.frozen:
                    self.batch.one_more(slot)  # as SGLang: and what ends with it is called aborted, too
                message = "Aborted by AbortReq." if ran else "Abort in waiting queue"
                self._reply(slot, {"type": "abort", "message": message})
        self.settle()

    def die(self, error: Exception) -> None:
        """Every request fails with the error."""
        if self._timer is not None:
            self._timer.cancel()
        for request in self._slots:
            if not request.answer.done():
                request.answer.set_exception(error)
                request.answer.exception()  # a call waits for its requests in turn, and ends with the first that fails

    def progress(self) -> dict[str, int]:
        """Of each request that runs or waits the tokens that it has generated."""
        return {request.rid: self.batch.generated(slot) for request, slot in self._slots.items()}

    def load(self) -> dict[str, Any]:
        """What the engine reports of it."""
        return load_report(self.batch, self._waiting, self._config)

    # -- weights and pauses -------------------------------------------------------------------------------------------

    def pause(self, mode: str) -> None:
        """Generate no more: "retract" takes the requests out of the cache, "in_place" leaves them where they are."""
        self.paused = True
        if mode == "retract":
            self._retract()
        else:
            self.batch.frozen = True

    def go_on(self) -> None:
        """Generate again."""
        self.paused = self.batch.frozen = False

    def flush(self) -> bool:
        """Empty the cache if that can be: while requests run only in a pause, and they are read anew then."""
        if self._slots and not self.paused:
            return False
        self._retract()
        self._prefixes.flush()
        return True

    async def update(self, seconds: float) -> None:
        """Let no request begin, wait until those that run have ended unless they are paused, and so many seconds."""
        self._held += 1
        try:
            while self._slots and not self.paused:
                await self._idle.wait()
            if seconds:
                await asyncio.sleep(seconds)
        finally:
            self._held -= 1

    def change(self, version: str, weights: int) -> None:
        """From here on tokens are of another version."""
        for request, slot in self._slots.items():
            if done := self.batch.generated(slot):
                request.spans.append((self.version, self.weights, done))
        self.version, self.weights = version, weights

    def _retract(self) -> None:
        """Running requests wait in the queue, without their cache. Their answers count it with the preemptions."""
        for slot in reversed(self.batch.slots()):
            self.batch.leave(slot)
            slot.retracted += 1
            self._waiting.appendleft(slot)

    # -- time ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Bring the batch to the present moment and answer what is finished."""
        self.batch.advance(asyncio.get_running_loop().time())
        for slot in self.batch.finished():
            self._reply(slot, {"type": slot.request.finish})
        for slot in self.batch.preempted():
            self.preemptions += 1
            self._waiting.appendleft(slot)

    def settle(self) -> None:
        """Admit what there is room for, and wake up at the next event."""
        while self._waiting and not (self.paused or self._held):
            slot = self._waiting[0]
            request = slot.request
            cached = self._prefixes.cached(request.tokens) if slot.done == 0 else 0
            if not self.batch.fits(slot, cached):
                break
            self._waiting.popleft()
            request.cached = cached
            self.batch.admit(slot, cached)
            self._read += 1
            self._prefixes.keep(request.tokens, self._config.cache_tokens - self.batch.used)
        if self._timer is not None:
            self._timer.cancel()
        at = self.batch.next_event()
        self._timer = None if at is None else asyncio.get_running_loop().call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.tick()
        self.settle()

    def _take_out(self, slot: Slot[EngineRequest]) -> None:
        if slot in self.batch:
            self.batch.leave(slot)
        else:
            self._waiting.remove(slot)
        self._slots.pop(slot.request, None)
        if not self._slots:
            self._idle.set()

    def _reply(self, slot: Slot[EngineRequest], reason: dict[str, Any]) -> None:
        """Answer a request that has left the batch or the queue."""
        request = slot.request
        self._slots.pop(request, None)
        if not self._slots:
            self._idle.set()
        if request.answer.done():
            return
        request.spans.append((self.version, self.weights, slot.done))
        answer, sequence = answer_to(slot, reason, self._config)
        if reason["type"] == "abort":
            self._started.cut(request.seed, len(request.tokens), slot.done)
        else:
            self._started.finished(request.seed)
        self._prefixes.keep(sequence, self._config.cache_tokens - self.batch.used)
        request.answer.set_result(answer)

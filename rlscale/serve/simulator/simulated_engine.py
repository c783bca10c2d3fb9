"""An engine without a model: the part of SGLang's protocol that rlscale uses, over a model of time.

It runs on the event loop that calls it, in that loop's time. `call` answers a path and a body as the server would, by
status and JSON; a connection that breaks is a ConnectionResetError, a dead engine a ConnectionRefusedError.

Left out: text (it has no tokenizer), streaming, process groups and CUDA IPC (it has no ranks), routed experts.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.engine_answers import answer_to, load_report
from rlscale.serve.simulator.engine_request import BadRequest, EngineRequest, read_requests
from rlscale.serve.simulator.prefix_cache import PrefixCache
from rlscale.serve.simulator.response_lengths import ResponseLengths
from rlscale.serve.simulator.running_batch import RunningBatch, Slot
from rlscale.serve.simulator.simulated_faults import Fault, Faults
from rlscale.serve.simulator.started_responses import StartedResponses

NEVER_TOLD = "default"
"""The weight version before the first update."""
_PAUSE_BY_ABORT_S = 1.0
"""SGLang's server sleeps so long in a pause that has something to abort."""
Answer = tuple[int, Any]


class SimulatedEngine:
    """One engine."""

    def __init__(
        self,
        config: SimulatedEngineConfig,
        number: int = 0,
        lengths: ResponseLengths | None = None,
        started: StartedResponses | None = None,
    ) -> None:
        """`number` tells its faults from other engines'. Engines that share `started` continue each other's responses.

        UserError if the file of measured lengths cannot be used.
        """
        self.config = config
        self._lengths = lengths or ResponseLengths(config.lengths, config.seed)
        self._started = started or StartedResponses()
        self._faults = Faults(config.faults, config.seed, number)
        self._unique = 0
        self.preemptions = 0
        self.updates_under_load = 0
        """Weight updates that arrived while a request ran: a real server may die of one."""
        self.restarts = 0
        self._tokens_before = 0
        self.answered = 0
        """Generated tokens of all calls that were answered."""
        self._timer: asyncio.TimerHandle | None = None
        self._down_until = 0.0
        self._boot()
        self._routes: dict[str, Callable[[Any], Awaitable[Answer]]] = {
            "/generate": self._generate,
            "/abort_request": self._abort,
            "/pause_generation": self._pause,
            "/continue_generation": self._continue,
            "/flush_cache": self._flush,
            "/update_weights_from_tensor": self._update,
            "/update_weights_from_disk": self._update,
            "/update_weight_version": self._rename,
            "/release_memory_occupation": self._release,
            "/resume_memory_occupation": self._resume,
            "/freeze_gc": self._fine,
            "/health": self._fine,
            "/health_generate": self._fine,
            "/model_info": self._info,
            "/server_info": self._server_info,
            "/v1/loads": self._loads,
        }

    def _boot(self) -> None:
        """The state of a new process."""
        self.version, self.weights = NEVER_TOLD, 0
        self._coming = 0  # what the buckets of an unfinished update amount to
        self.batch: RunningBatch[EngineRequest] = RunningBatch(self.config)
        self._prefixes = PrefixCache()
        self._waiting: deque[Slot[EngineRequest]] = deque()
        self._slots: dict[EngineRequest, Slot[EngineRequest]] = {}
        self._open: dict[EngineRequest, Slot[EngineRequest]] = {}  # of calls that have no answer yet
        self._paused = False
        self._updating = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._asleep: set[str] = set()

    @property
    def down(self) -> bool:
        """Whether it is dead at the moment."""
        return asyncio.get_running_loop().time() < self._down_until

    @property
    def tokens(self) -> int:
        """Tokens that it has generated so far, those of requests that still run included."""
        running = sum(self.batch.generated(slot) - slot.done for slot in self.batch.slots())
        return self._tokens_before + self.batch.tokens + running

    @property
    def in_flight(self) -> int:
        """Generated tokens of requests that run or wait."""
        return sum(self.batch.generated(slot) for slot in self._slots.values())

    @property
    def unanswered(self) -> int:
        """Tokens that no answer brought and none will bring: of calls that were lost, or whose client has gone."""
        return self.tokens - self.answered - sum(self.batch.generated(slot) for slot in self._open.values())

    @property
    def requests(self) -> int:
        """Requests that run or wait."""
        return len(self._slots)

    async def call(self, path: str, body: Any = None) -> Answer:
        """The answer to a request of the protocol."""
        if self.down:
            raise ConnectionRefusedError("the engine is dead")
        route = self._routes.get(path.partition("?")[0])
        if route is None:
            return 404, {"detail": "Not Found"}
        self._tick()
        return await route(body)

    def die(self) -> None:
        """End as a process that crashes: every connection breaks; it is back later, as it was when it was started."""
        loop = asyncio.get_running_loop()
        self._tick()
        self._tokens_before = self.tokens
        lost = list(self._slots)
        if self._timer is not None:
            self._timer.cancel()
        self._boot()
        self._down_until = loop.time() + self.config.faults.restart_s
        self.restarts += 1
        for request in lost:
            if not request.answer.done():
                request.answer.set_exception(ConnectionResetError("the engine died"))

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _generate(self, body: Mapping[str, Any]) -> Answer:
        if self._asleep:
            return 500, {"error": {"message": f"memory is released: {', '.join(sorted(self._asleep))}"}}
        self._unique += 1
        try:
            requests, many = read_requests(body, self.config.end_token, self.config.context, self._unique)
        except BadRequest as error:
            return 400, {"error": {"message": str(error)}}
        fault = self._faults.draw()
        if fault is Fault.lost:
            raise ConnectionResetError("the request was lost")
        for request in requests:
            self._accept(request)
        self._settle()
        try:
            found = [await request.answer for request in requests]
            await self._befall(fault, found)
            self.answered += sum(answer["meta_info"]["completion_tokens"] for answer in found)
        finally:
            for request in requests:
                self._forget(request)
        return 200, found if many else found[0]

    async def _befall(self, fault: Fault | None, found: list[dict[str, Any]]) -> None:
        """What happens to a call once its answers are there."""
        if fault is Fault.stalled:
            await asyncio.get_running_loop().create_future()
        if fault is Fault.crashed:
            self.die()
        if fault in (Fault.duplicated, Fault.crashed):
            raise ConnectionResetError("the connection broke before the answer")
        if fault is Fault.rubbish:
            entries = found[0]["meta_info"]["output_token_logprobs"]
            entries[:1] = [(None, *entry[1:]) for entry in entries[:1]]

    def _accept(self, request: EngineRequest) -> None:
        """Queue a request, with the length that its response will have."""
        before = self._started.before(request.seed, len(request.tokens))
        prompt = request.tokens[: len(request.tokens) - before]
        drawn = self._lengths.draw(zlib.crc32(prompt.tobytes()), request.seed) - before
        length = max(drawn, request.least, 1)
        if before == 0:
            self._started.count(min(length, request.most))
        room = max(1, self.config.cache_tokens - len(request.tokens))
        if length > min(request.most, room):
            length, request.finish = min(request.most, room), "length"
        if request.least >= request.most:
            request.finish = "length"
        slot = Slot(request, len(request.tokens), length)
        self._slots[request] = self._open[request] = slot
        self._idle.clear()
        self._waiting.append(slot)

    def _forget(self, request: EngineRequest) -> None:
        """The client has its answer, or has gone: then the engine works no more for it."""
        self._open.pop(request, None)
        slot = self._slots.get(request)
        if slot is not None:
            self._tick()
            self._take_out(slot)
            self._settle()

    def _take_out(self, slot: Slot[EngineRequest]) -> None:
        if slot in self.batch:
            self.batch.leave(slot)
        else:
            self._waiting.remove(slot)
        self._slots.pop(slot.request, None)
        if not self._slots:
            self._idle.set()

    def _tick(self) -> None:
        """Bring the batch to the present moment and answer what is finished."""
        self.batch.advance(asyncio.get_running_loop().time())
        for slot in self.batch.finished():
            self._reply(slot, {"type": slot.request.finish})
        for slot in self.batch.preempted():
            self.preemptions += 1
            self._waiting.appendleft(slot)

    def _settle(self) -> None:
        """Admit what there is room for, and wake up at the next event."""
        while self._waiting and not (self._paused or self._updating):
            slot = self._waiting[0]
            request = slot.request
            cached = self._prefixes.cached(request.tokens) if slot.done == 0 else 0
            if not self.batch.fits(slot, cached):
                break
            self._waiting.popleft()
            request.cached = cached
            self.batch.admit(slot, cached)
            self._prefixes.keep(request.tokens, self.config.cache_tokens - self.batch.used)
        if self._timer is not None:
            self._timer.cancel()
        at = self.batch.next_event()
        self._timer = None if at is None else asyncio.get_running_loop().call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._tick()
        self._settle()

    def _reply(self, slot: Slot[EngineRequest], reason: dict[str, Any]) -> None:
        """Answer a request that has left the batch or the queue."""
        request = slot.request
        self._slots.pop(request, None)
        if not self._slots:
            self._idle.set()
        if request.answer.done():
            return
        request.spans.append((self.version, self.weights, slot.done))
        answer, sequence = answer_to(slot, reason, self.config)
        if reason["type"] == "abort":
            self._started.cut(request.seed, len(request.tokens), slot.done)
        else:
            self._started.finished(request.seed)
        self._prefixes.keep(sequence, self.config.cache_tokens - self.batch.used)
        request.answer.set_result(answer)

    # -- control ------------------------------------------------------------------------------------------------------

    async def _abort(self, body: Mapping[str, Any]) -> Answer:
        rid = str(body.get("rid") or "")
        if body.get("abort_all") or rid:
            self._end(lambda request: bool(body.get("abort_all")) or request.rid.startswith(rid))
        return 200, None

    def _end(self, chosen: Callable[[EngineRequest], bool]) -> None:
        for request, slot in list(self._slots.items()):
            if chosen(request):
                ran = slot in self.batch
                self._take_out(slot)
                if ran and not self.batch.frozen:
                    self.batch.one_more(slot)  # as SGLang: and what ends with it is called aborted, too
                message = "Aborted by AbortReq." if ran else "Abort in waiting queue"
                self._reply(slot, {"type": "abort", "message": message})
        self._settle()

    async def _pause(self, body: Mapping[str, Any]) -> Answer:
        mode = body.get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            return 422, {"detail": f"mode {mode}"}
        self._paused = True
        if mode == "abort" and self._slots:
            self._end(lambda request: True)
            await asyncio.sleep(_PAUSE_BY_ABORT_S)
        elif mode == "retract":
            self._retract()
        else:
            self.batch.frozen = True
        self._settle()
        return 200, {"message": "Generation paused successfully.", "status": "ok"}

    def _retract(self) -> None:
        """Running requests wait in the queue, without their cache. Their answers count it with the preemptions."""
        for slot in reversed(self.batch.slots()):
            self.batch.leave(slot)
            slot.retracted += 1
            self._waiting.appendleft(slot)

    async def _continue(self, body: Mapping[str, Any]) -> Answer:
        self._paused = self.batch.frozen = False
        self._settle()
        return 200, {"message": "Generation continued successfully.", "status": "ok"}

    async def _flush(self, body: Any) -> Answer:
        if not self._flushed():
            return 400, "Flush cache failed.\n"
        return 200, "Cache flushed.\n"

    def _flushed(self) -> bool:
        """Empty the cache if that can be: while requests run only in a pause, and they are read anew then."""
        if self._slots and not self._paused:
            return False
        self._retract()
        self._prefixes.flush()
        return True

    async def _update(self, body: Mapping[str, Any]) -> Answer:
        """New weights are what the buckets or the folder amount to: the same ones again are the same weights."""
        if len(self.batch):
            self.updates_under_load += not self._paused
        self._updating += 1
        try:
            while self._slots and not self._paused:
                await self._idle.wait()
            if self.config.update_s:
                await asyncio.sleep(self.config.update_s)
        finally:
            self._updating -= 1
        self._tick()
        payload = body.get("serialized_named_tensors") or body.get("model_path") or ""
        self._coming = zlib.crc32(str(payload).encode(), self._coming)
        version = body.get("weight_version")
        if version is not None:
            if body.get("flush_cache", True):
                self._flushed()
            self._change(str(version), self._coming)
            self._coming = 0
        self._settle()
        return 200, {"success": True, "message": "Success.", "num_paused_requests": 0}

    async def _rename(self, body: Mapping[str, Any]) -> Answer:
        if body.get("abort_all_requests", True):
            self._end(lambda request: True)
        self._change(str(body["new_version"]), self.weights)
        return 200, {"success": True, "message": "Weight version updated.", "new_version": self.version}

    def _change(self, version: str, weights: int) -> None:
        """From here on tokens are of another version."""
        for request, slot in self._slots.items():
            if done := self.batch.generated(slot):
                request.spans.append((self.version, self.weights, done))
        self.version, self.weights = version, weights

    async def _release(self, body: Mapping[str, Any]) -> Answer:
        if self._slots:
            return 400, {"error": {"message": "memory can be released while no request runs"}}
        self._prefixes.flush()
        self._asleep.update((body or {}).get("tags") or ("kv_cache", "weights"))
        return 200, None

    async def _resume(self, body: Mapping[str, Any]) -> Answer:
        self._asleep.difference_update((body or {}).get("tags") or ("kv_cache", "weights"))
        return 200, None

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _fine(self, body: Any) -> Answer:
        return 200, None

    async def _info(self, body: Any) -> Answer:
        return 200, {"model_path": "simulated", "is_generation": True, "weight_version": self.version}

    async def _server_info(self, body: Any) -> Answer:
        limits = {"max_running_requests": self.config.slots, "max_total_num_tokens": self.config.cache_tokens}
        return 200, {**limits, "version": "simulated", "internal_states": [{"last_gen_throughput": 0.0, **limits}]}

    async def _loads(self, body: Any) -> Answer:
        return 200, load_report(self.batch, self._waiting, self.config)

"""An engine without a model: the part of SGLang's protocol that rlscale uses, over a model of time.

It runs on the event loop that calls it, in that loop's time. `call` answers a path and a body as the server would, by
status and JSON; a connection that breaks is a ConnectionResetError, a dead engine a ConnectionRefusedError.

Left out: text (it has no tokenizer), streaming, process groups and CUDA IPC (it has no ranks), routed experts.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rlscale.config.derived.needed_weights import FIELDS, refusal
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.platform.sglang_passes import KEY
from rlscale.serve import progress_endpoint
from rlscale.serve.simulator.engine_request import BadRequest, EngineRequest, read_requests
from rlscale.serve.simulator.engine_scheduler import EngineScheduler
from rlscale.serve.simulator.response_lengths import ResponseLengths
from rlscale.serve.simulator.running_batch import RunningBatch
from rlscale.serve.simulator.simulated_faults import Fault, Faults
from rlscale.serve.simulator.started_responses import StartedResponses

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
        self.updates_under_load = 0
        """Weight updates that arrived while a request ran: a real server may die of one."""
        self.asked_in_updates = 0
        """Requests that arrived while it was paused for an update or in the middle of one."""
        self.restarts = 0
        self._tokens_before = self._preemptions_before = 0  # of processes that died
        self.answered = 0
        """Generated tokens of all calls that were answered."""
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
            progress_endpoint.PATH: self._progress,
        }

    def _boot(self) -> None:
        """The state of a new process."""
        self._scheduler = EngineScheduler(self.config, self._lengths, self._started)
        self._coming = 0  # what the buckets of an unfinished update amount to
        self._asleep: set[str] = set()
        self._moves = progress_endpoint.Moves()

    @property
    def down(self) -> bool:
        """Whether it is dead at the moment."""
        return asyncio.get_running_loop().time() < self._down_until

    @property
    def batch(self) -> RunningBatch[EngineRequest]:
        """The requests that run."""
        return self._scheduler.batch

    @property
    def tokens(self) -> int:
        """Tokens that it has generated so far, those of requests that still run included."""
        return self._tokens_before + self._scheduler.tokens

    @property
    def preemptions(self) -> int:
        """How often a request had to leave because the cache was full."""
        return self._preemptions_before + self._scheduler.preemptions

    @property
    def in_flight(self) -> int:
        """Generated tokens of requests that run or wait."""
        return self._scheduler.in_flight

    @property
    def unanswered(self) -> int:
        """Tokens that no answer brought and none will bring: of calls that were lost, or whose client has gone."""
        return self.tokens - self.answered - self._scheduler.unanswered

    @property
    def requests(self) -> int:
        """Requests that run or wait."""
        return len(self._scheduler)

    async def call(self, path: str, body: Any = None) -> Answer:
        """The answer to a request of the protocol."""
        if self.down:
            raise ConnectionRefusedError("the engine is dead")
        route = self._routes.get(path.partition("?")[0])
        if route is None:
            return 404, {"detail": "Not Found"}
        self._scheduler.tick()
        return await route(body)

    def die(self) -> None:
        """End as a process that crashes: every connection breaks; it is back later, as it was when it was started."""
        ended = self._scheduler
        ended.tick()
        self._tokens_before, self._preemptions_before = self.tokens, self.preemptions
        self._boot()
        self._down_until = asyncio.get_running_loop().time() + self.config.faults.restart_s
        self.restarts += 1
        ended.die(ConnectionResetError("the engine died"))

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _generate(self, body: Mapping[str, Any]) -> Answer:
        if self._asleep:
            return 500, {"error": {"message": f"memory is released: {', '.join(sorted(self._asleep))}"}}
        self._unique += 1
        try:
            requests, many = read_requests(body, self.config.end_token, self.config.context, self._unique)
        except BadRequest as error:
            return 400, {"error": {"message": str(error)}}
        for field in (one for one in FIELDS.values() if one in body):
            if type(body[field]) is not int:
                return 400, {"error": {"message": f"{field} must be a whole number"}}
            if (why := refusal(field, body[field], self._scheduler.version)) is not None:
                return 503, why
        fault = self._faults.draw()
        if fault is Fault.lost:
            raise ConnectionResetError("the request was lost")
        scheduler = self._scheduler
        self.asked_in_updates += len(requests) if scheduler.updating else 0
        for request in requests:
            scheduler.accept(request)
        scheduler.settle()
        try:
            found = [await request.answer for request in requests]
            await self._befall(fault, found)
            self.answered += sum(answer["meta_info"]["completion_tokens"] for answer in found)
        finally:
            for request in requests:
                scheduler.forget(request)
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
            meta = found[0]["meta_info"]
            entries = list(meta["output_token_logprobs"])
            meta["output_token_logprobs"] = [(None, *entry[1:]) for entry in entries[:1]] + entries[1:]

    # -- control ------------------------------------------------------------------------------------------------------

    async def _abort(self, body: Mapping[str, Any]) -> Answer:
        rid = str(body.get("rid") or "")
        if body.get("abort_all") or rid:
            self._scheduler.end(lambda request: bool(body.get("abort_all")) or request.rid.startswith(rid))
        return 200, None

    async def _pause(self, body: Mapping[str, Any]) -> Answer:
        mode, scheduler = body.get("mode", "abort"), self._scheduler
        if mode not in ("abort", "retract", "in_place"):
            return 422, {"detail": f"mode {mode}"}
        if mode == "abort" and len(scheduler):
            scheduler.paused = True
            scheduler.end(lambda request: True)
            await asyncio.sleep(_PAUSE_BY_ABORT_S)
        else:
            scheduler.pause(mode)
        scheduler.settle()
        return 200, {"message": "Generation paused successfully.", "status": "ok"}

    async def _continue(self, body: Mapping[str, Any]) -> Answer:
        self._scheduler.go_on()
        self._scheduler.settle()
        return 200, {"message": "Generation continued successfully.", "status": "ok"}

    async def _flush(self, body: Any) -> Answer:
        if not self._scheduler.flush():
            return 400, "Flush cache failed.\n"
        return 200, "Cache flushed.\n"

    async def _update(self, body: Mapping[str, Any]) -> Answer:
        """New weights are what the buckets or the folder amount to: the same ones again are the same weights."""
        scheduler = self._scheduler
        if len(scheduler.batch):
            self.updates_under_load += not scheduler.paused
        await scheduler.update(self.config.update_s)
        scheduler.tick()
        payload = body.get("serialized_named_tensors") or body.get("model_path") or ""
        self._coming = zlib.crc32(str(payload).encode(errors="surrogatepass"), self._coming)
        version = body.get("weight_version")
        if version is not None:
            if body.get("flush_cache", True):
                scheduler.flush()
            scheduler.change(str(version), self._coming)
            self._coming = 0
        scheduler.settle()
        return 200, {"success": True, "message": "Success.", "num_paused_requests": 0}

    async def _rename(self, body: Mapping[str, Any]) -> Answer:
        scheduler, version = self._scheduler, str(body["new_version"])
        if body.get("abort_all_requests", True):
            scheduler.end(lambda request: True)
        scheduler.change(version, scheduler.weights)
        return 200, {"success": True, "message": "Weight version updated.", "new_version": version}

    async def _release(self, body: Mapping[str, Any]) -> Answer:
        if len(self._scheduler):
            return 400, {"error": {"message": "memory can be released while no request runs"}}
        self._scheduler.flush()
        self._asleep.update((body or {}).get("tags") or ("kv_cache", "weights"))
        return 200, None

    async def _resume(self, body: Mapping[str, Any]) -> Answer:
        self._asleep.difference_update((body or {}).get("tags") or ("kv_cache", "weights"))
        return 200, None

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _fine(self, body: Any) -> Answer:
        return 200, None

    async def _info(self, body: Any) -> Answer:
        version = self._scheduler.version
        return 200, {"model_path": "simulated", "is_generation": True, "weight_version": version}

    async def _server_info(self, body: Any) -> Answer:
        limits = {"max_running_requests": self.config.slots, "max_total_num_tokens": self.config.cache_tokens}
        state = {"last_gen_throughput": 0.0, KEY: [*self._scheduler.passes], **limits}
        return 200, {**limits, "version": "simulated", "internal_states": [state]}

    async def _progress(self, body: Any) -> Answer:
        tokens, paused = self._scheduler.progress(), self._scheduler.paused
        return 200, {"requests": len(tokens), "moves": self._moves.look(tokens), "paused": paused}

    async def _loads(self, body: Any) -> Answer:
        return 200, self._scheduler.load()

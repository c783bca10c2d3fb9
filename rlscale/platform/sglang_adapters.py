"""The policy's adapter in an SGLang server: verified, one at a time, and never a mixture of two versions.

SGLang ends when an adapter arrives damaged, waits for the requests of one that is to be unloaded, and lets them go on
with it. Here damage is an answer; a new version replaces the one before within the call that loads it; a request that
is paused meanwhile gives up its keys and values and goes on with the new version, as it does when whole weights come;
and one that names an earlier version than the engine's gets the engine's, of which the answer says so for each token.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rlscale.config.derived.adapter_names import adapter_name, version_of
from rlscale.platform.adapting import adapts_now
from rlscale.platform.sglang_verified_updates import bucket_is_damaged

WORKER = "sglang.srt.managers.tp_worker"
CONTROL = "sglang.srt.managers.tokenizer_control_mixin"
TOKENIZER = "sglang.srt.managers.tokenizer_manager"

_MARK = "rlscale_replaces_adapters"


def adapt_worker(module: Any) -> None:
    """WORKER: an adapter that was damaged, or does not fit, is refused instead of ending the server."""
    worker = module.BaseTpWorker
    if not adapts_now(worker, _MARK):
        return
    load = worker.load_lora_adapter_from_tensors
    messages: Any = sys.modules[module.LoadLoRAAdapterFromTensorsReqInput.__module__]
    output = messages.LoRAUpdateOutput

    def load_verified(self: Any, request: Any) -> Any:
        try:
            if bucket_is_damaged(self._deserialize_own_rank(request.serialized_named_tensors)):
                message = "the adapter was damaged on its way: its checksum is another one; nothing was loaded of it"
                return output(success=False, error_message=message)
            return load(self, request)
        except Exception as error:  # whatever it is, it would end the scheduler
            return output(success=False, error_message=f"{type(error).__name__}: {error}")

    worker.load_lora_adapter_from_tensors = load_verified


def adapt_scheduler(scheduler: Any) -> None:
    """The scheduler's class: what is paused in it, or on its way to it, goes on with an adapter that arrives."""
    load, take = scheduler.load_lora_adapter_from_tensors, scheduler.handle_generate_request

    def load_for_all(self: Any, request: Any) -> Any:
        if self._engine_paused:
            self.flush_cache()  # keys and values of the adapter before
        result = load(self, request)
        if result.success and version_of(request.lora_name) is not None:
            self.rlscale_adapter = request.lora_id
            for waiting in _live(self):
                if waiting.lora_id is not None:
                    waiting.extra_key = (waiting.extra_key or "").removesuffix(waiting.lora_id) + request.lora_id
                    waiting.lora_id = request.lora_id
        return result

    def take_with_newest(self: Any, request: Any, *args: Any, **keywords: Any) -> Any:
        if request.lora_id is not None:
            request.lora_id = getattr(self, "rlscale_adapter", request.lora_id)
        return take(self, request, *args, **keywords)

    scheduler.load_lora_adapter_from_tensors = load_for_all
    scheduler.handle_generate_request = take_with_newest


def adapt_control(module: Any) -> None:
    """CONTROL: the adapter of a version takes the place of any other version's."""
    control = module.TokenizerControlMixin
    if not adapts_now(control, _MARK):
        return
    load = control.load_lora_adapter_from_tensors

    async def unload(self: Any, name: str) -> None:
        """Without waiting for requests that named it: the scheduler has given them the new one."""
        order = module.UnloadLoRAAdapterReqInput(lora_name=name)
        order.lora_id = await self.lora_registry.unregister(name)
        await self.update_lora_adapter_communicator(order)
        self.lora_ref_cache.pop(name, None)
        forgetting = asyncio.create_task(self.lora_registry.wait_for_unload(order.lora_id))
        _background.add(forgetting)
        forgetting.add_done_callback(_background.discard)

    async def load_instead(self: Any, obj: Any, request: Any = None) -> Any:
        if version_of(obj.lora_name) is None:
            return await load(self, obj, request)
        held = [name for name in self.lora_registry.get_all_adapters() if version_of(name) is not None]
        if obj.lora_name in held:  # sent anew: an engine that was restarted had it already
            held.remove(obj.lora_name)
            await unload(self, obj.lora_name)
        result = await load(self, obj, request)
        for name in held if result.success else ():
            await unload(self, name)
        return result

    control.load_lora_adapter_from_tensors = load_instead


def adapt_tokenizer(module: Any) -> None:
    """TOKENIZER: a request for an earlier version than the engine holds gets the one that it holds."""
    manager = module.TokenizerManager
    if not adapts_now(manager, f"{_MARK}_of_requests"):
        return
    resolve = manager._resolve_lora_path

    async def resolve_version(self: Any, obj: Any) -> None:
        held = [version_of(name) for name in self.lora_registry.get_all_adapters()]
        newest = max((version for version in held if version is not None), default=-1)
        paths = obj.lora_path
        served = [_served(path, newest) for path in ([paths] if isinstance(paths, str) else paths)]
        obj.lora_path = served[0] if isinstance(paths, str) else served
        for each in obj.__dict__.get("_sub_obj_cache", {}).values():
            each.lora_path = _served(each.lora_path, newest)
        await resolve(self, obj)

    manager._resolve_lora_path = resolve_version


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    WORKER: adapt_worker,
    CONTROL: adapt_control,
    TOKENIZER: adapt_tokenizer,
}
"""Module -> what is changed in it right after its import, on every device."""

_background: set[asyncio.Task[None]] = set()


def _served(name: str | None, newest: int) -> str | None:
    version = version_of(name)
    return adapter_name(newest) if version is not None and version < newest else name


def _live(scheduler: Any) -> Iterator[Any]:
    """The requests that the scheduler has, each once."""
    chunked = [] if scheduler.chunked_req is None else [scheduler.chunked_req]
    yield from {*scheduler.collect_inflight_reqs(), *scheduler.waiting_queue, *chunked}

"""Weight updates of an SGLang server that still has requests: its cache is emptied, and the requests go on.

An update has to empty the cache of keys and values, which are those of the old weights. SGLang (0.5.19) can do so only
while nothing runs and nothing waits; a server that is asked to while requests are paused ends with an assertion.
Here the scheduler first takes the requests out of the cache, as its pause mode "retract" does: they wait, keep the
tokens that they have, and compute keys and values anew with the new weights when generation goes on. An update that
meets running requests although nothing was paused, which no client should send, is survived in the same way.

The scheduler is a process of its own. On the CPU it is forked and has what its parent had. On GPUs it is spawned and
imports SGLang anew, so it is given another function to run, which adapts SGLang there first.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from rlscale.config.derived.paused_flush import MARK
from rlscale.platform import (
    rendezvous,
    sglang_adapters,
    sglang_passes,
    sglang_repacked,
    sglang_reward_heads,
    sglang_streamed,
    sglang_verified_updates,
    sglang_weight_sums,
)
from rlscale.platform.adapting import AdaptingFinder, adapts_now
from rlscale.platform.stacks import tell_stacks

SCHEDULER = "sglang.srt.managers.scheduler"
UPDATER = "sglang.srt.managers.scheduler_components.weight_updater"

_OWN_RUN = "run_scheduler_process_unadapted"
"""Where the adapted module keeps SGLang's own function."""


def adapt_scheduler(module: Any) -> None:
    """SCHEDULER: a cache that can be emptied while requests are paused, a server that says so, and its passes."""
    scheduler = module.Scheduler
    if not adapts_now(scheduler, MARK):
        return
    flush, state = scheduler.flush_cache, scheduler.get_internal_state

    def flush_cache(self: Any, empty_cache: bool = True) -> bool:
        if not self._engine_paused or self.is_fully_idle():
            return bool(flush(self, empty_cache))
        self.pause_generation(module.PauseGenerationReqInput(mode="retract"))
        waiting, self.waiting_queue = self.waiting_queue, []
        try:
            return bool(flush(self, empty_cache))
        finally:
            self.waiting_queue = waiting

    def get_internal_state(self: Any, request: Any) -> Any:
        answer = state(self, request)
        answer.internal_state[MARK] = True
        return answer

    scheduler.flush_cache, scheduler.get_internal_state = flush_cache, get_internal_state
    sglang_adapters.adapt_scheduler(scheduler)
    sglang_passes.adapt_scheduler(scheduler)
    setattr(module, _OWN_RUN, module.run_scheduler_process)
    module.run_scheduler_process = run_scheduler_process


def adapt_updater(module: Any) -> None:
    """UPDATER: the last part of an update empties the cache, and pauses for it, whatever runs."""
    updater = module.SchedulerWeightUpdaterManager

    def flush_cache_after_weight_update(self: Any, request: Any) -> None:
        if not request.flush_cache:
            return
        sglang_repacked.close_layers(self.tp_worker.model_runner.model)
        scheduler = self.scheduler
        paused, scheduler._engine_paused = scheduler._engine_paused, True
        try:
            emptied = self.flush_cache(empty_cache=request.torch_empty_cache)
        finally:
            scheduler._engine_paused = paused
        assert emptied, "Cache flush failed after updating weights"

    updater.flush_cache_after_weight_update = flush_cache_after_weight_update


def adapt_runner_updater(module: Any) -> None:
    """RUNNER_UPDATER: what comes is verified, then layers are made ready for it, then it is loaded."""
    sglang_repacked.adapt_runner_updater(module)
    sglang_verified_updates.adapt_runner_updater(module)


def adapt_sampler(module: Any) -> None:
    """sglang.srt.layers.sampler: see there."""
    from rlscale.platform import sglang_seeded  # imports torch, which who only starts engines does without

    sglang_seeded.adapt_sampler(module)


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    **sglang_adapters.ADAPTATIONS,
    SCHEDULER: adapt_scheduler,
    UPDATER: adapt_updater,
    sglang_verified_updates.RUNNER_UPDATER: adapt_runner_updater,
    sglang_weight_sums.CHECKER: sglang_weight_sums.adapt_checker,
    sglang_streamed.STREAMER: sglang_streamed.adapt_streamer,
    "sglang.srt.layers.sampler": adapt_sampler,
}
"""Module -> what is changed in it right after its import, on every device."""


def run_scheduler_process(server_args: Any, *args: Any, **keywords: Any) -> None:
    """What the scheduler's process runs: SGLang's function of that name, after the adaptation."""
    tell_stacks()
    rendezvous.bind_to_named_host()
    on_gpus = {} if server_args.device == "cpu" else sglang_repacked.ADAPTATIONS
    # before SGLang imports its models
    sys.meta_path.insert(0, AdaptingFinder({**sglang_reward_heads.ADAPTATIONS, **on_gpus}))
    for name, adapt in ADAPTATIONS.items():
        adapt(importlib.import_module(name))
    getattr(importlib.import_module(SCHEDULER), _OWN_RUN)(server_args, *args, **keywords)

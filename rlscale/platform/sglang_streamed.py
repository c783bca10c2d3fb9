"""Answers in parts that say which weights generated their tokens: SGLang says it with the last part only.

So what an engine has sent of a response can be used after the engine has died (`rlscale.rollout.engines`).
"""

from __future__ import annotations

from typing import Any

from rlscale.platform.adapting import adapts_now

STREAMER = "sglang.srt.managers.scheduler_components.output_streamer"


def adapt_streamer(module: Any) -> None:
    """STREAMER: a part that is not the last has spans of weight versions, too."""
    accumulator = module._GenerationStreamAccumulator
    if not adapts_now(accumulator, "_rlscale_versions_in_parts"):
        return
    accept = accumulator.accept

    def accept_and_say(self: Any, *, req: Any) -> None:
        before = len(self.weight_versions)
        accept(self, req=req)
        if len(self.weight_versions) > before and self.weight_versions[-1] is None and req.stream:
            self.weight_versions[-1] = module.compute_weight_version_spans(
                req.weight_version_events,
                current_version=self.current_weight_version,
                num_output_tokens=len(req.output_ids_through_stop),
            )

    accumulator.accept = accept_and_say

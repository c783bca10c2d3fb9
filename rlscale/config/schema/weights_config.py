"""How the trainer's weights reach the engines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlscale.config.schema.about import Limit, Scope, Unread, Where, bounded
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import component
from rlscale.config.schema.limits import COUNT, LOGPROBS, TOKENS, YEAR
from rlscale.config.schema.section import Section

_BUCKET_MB = {Device.cpu: 64, Device.cuda: 256}
_NO_SAMPLES = Unread(
    Where.supervised,
    ": supervised training (algo/loss=sft) has no samples of an engine to compare; set it to null",
)


class SyncedLora(Enum):
    """How engines get the adapter of `model.lora`."""

    merged = "merged"
    """Added to the weights, all of which are sent."""
    adapter = "adapter"
    """By itself: engines compute with it beside the weights that they started with."""


@dataclass
class WeightsConfig(Section):
    """Weight sync and its canary."""

    transport: dict[str, Any] = component("rlscale.weights.transports.choice.auto")
    """`_target_` of a rlscale.weights Transport and its arguments (group `weights/transport`)."""
    lora: SyncedLora = SyncedLora.merged
    """How engines get the adapter of `model.lora`: merged into whole weights, or as an adapter."""
    bucket_mb: int | None = bounded(None, at_least=1, limit=Limit(100000, "a bucket is held in memory, twice"))
    """Megabytes of parameters sent at a time; null: 64 on the CPU, where that is the fastest, 256 on GPUs."""
    max_engines_at_once: int | None = bounded(
        None, at_least=1, limit=Limit(100000, "no run has that many engines"), scope=Scope.execution
    )
    """Engines that take weights at the same time while the others generate; null: all of them, and nobody generates."""
    verify_every: int = bounded(10, at_least=0, limit=COUNT, scope=Scope.execution)
    """Syncs between canary checks (the first sync is always checked); 0 checks only the first."""
    verify_tensors: int = bounded(0, at_least=0, limit=COUNT, scope=Scope.execution)
    """Versions between comparisons of every tensor that engines hold, by its checksum, with what was sent; 0 for none.
    For `rollout.weights=as_trained` and engines that rlscale has started."""
    canary_tokens: int = bounded(32, at_least=2, limit=TOKENS)
    """Length in tokens of the fixed canary prompt."""
    canary_bound: float | None = bounded(None, above=0, limit=LOGPROBS, scope=Scope.execution)
    """Largest difference of log-prob between engine and trainer on the canary; null: fp32 1e-3, fp16 0.06, bf16 0.2."""
    max_logprob_diff: float | None = bounded(None, above=0, limit=LOGPROBS, scope=Scope.execution, unread=[_NO_SAMPLES])
    """Largest mean |trainer - engine| log-prob of an iteration, over tokens of its own version; null: no bound."""
    timeout_s: float = bounded(300.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds an engine may take for a call of a sync: a bucket or folder of weights; the whole sync twice as many."""

    def bucket_bytes(self, device: Device) -> int:
        """Bytes of parameters sent at a time from ranks on devices of this kind."""
        return (_BUCKET_MB[device] if self.bucket_mb is None else self.bucket_mb) * 2**20

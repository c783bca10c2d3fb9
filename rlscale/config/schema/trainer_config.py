"""How the trainer computes a step."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlscale.config.schema.about import Limit, Scope, bounded, key, passed_on
from rlscale.config.schema.component import target_field
from rlscale.config.schema.limits import CORES, COUNT, TOKENS
from rlscale.config.schema.section import Section


class Recompute(Enum):
    """Which activations are computed again in the backward pass instead of kept."""

    none = "none"
    """None: all are kept."""
    selective = "selective"
    """Those of core attention alone; `trainer.megatron.recompute_modules` names other modules."""
    full = "full"
    """All of a layer: only its input is kept."""


class RoutingReplay(Enum):
    """Whose choice of experts the training passes of a mixture of experts repeat."""

    none = "none"
    """Nobody's: the router chooses in every pass."""
    recorded = "recorded"
    """That of the pass for the old log-probs (R2)."""
    rollout = "rollout"
    """That of the engine while it generated (R3); also in the pass for the old log-probs."""


class EightBits(Enum):
    """How the linears of transformer layers are computed: by one of Transformer Engine's recipes for FP8, or none.

    Numbers are e4m3 (the gradients of `tensorwise` e5m2), their products add up in float32. Recipes with a memory of
    earlier iterations (delayed scaling) are left out: a run that goes on from a checkpoint would not go on as it was.
    """

    none = "none"
    """Not in FP8: in `model.dtype`."""
    tensorwise = "tensorwise"
    """A scale for each tensor, by its largest number (current scaling)."""
    blockwise = "blockwise"
    """A scale for 128 numbers of a token, and for 128 x 128 of a weight, as engines of `rollout.weights=fp8_block`."""
    mxfp8 = "mxfp8"
    """A power of two for every 32 numbers; GPUs from Blackwell on."""

    @property
    def multiple(self) -> int:
        """What tokens of a rank's micro-batch, and the rows and columns of its weights, must be multiples of."""
        return {EightBits.none: 1, EightBits.mxfp8: 32}.get(self, 16)

    @property
    def since(self) -> tuple[int, int]:
        """The first version of Transformer Engine that has it."""
        return {EightBits.tensorwise: (2, 2), EightBits.blockwise: (2, 3)}.get(self, (2, 1))

    def is_in(self, version: str) -> bool:
        """Whether Transformer Engine of a version, such as "2.8.0", has it."""
        major, minor, *_ = [int(part) for part in re.findall(r"\d+", version)] + [0, 0]
        return (major, minor) >= self.since


class Mtp(Enum):
    """What becomes of the layer that predicts a token further (multi-token prediction), where a model has one."""

    frozen = "frozen"
    """It stays as it is on disk, and exports have it so."""
    trained = "trained"
    """It follows the policy: a loss of its own trains it, and nothing else."""


_ONE_PROCESS = "the critic and the policy compute in the same process"


@dataclass
class TrainerConfig(Section):
    """The trainer: which class its ranks are of, and how they compute a step."""

    _target_: str = target_field("rlscale.trainer.megatron.trainer.MegatronTrainer")
    """Class of a rank: a rlscale.trainer.trainer_protocol.Trainer."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of a class of your own, by name, besides the rank's specification and place."""
    max_tokens_per_microbatch: int = bounded(
        8192, at_least=1, limit=TOKENS, shared="the critic and the policy train on the same micro-batches"
    )
    """Tokens of one micro-batch of one rank (before context parallelism cuts it); a longer sample stands alone."""
    distributed_optimizer: bool = key(False, scope=Scope.execution)
    """Shard the optimizer state over the data-parallel ranks."""
    recompute: Recompute = Recompute.none
    """Which activations are computed again in the backward pass: none, core attention's (selective), or all."""
    deterministic: bool = key(True, shared=_ONE_PROCESS)
    """Only operations whose result does not change from run to run; on a GPU, one that has no such form raises."""
    max_skipped_steps: int = bounded(
        3, at_least=0, limit=COUNT, scope=Scope.execution, shared="one bound holds for the skipped steps of both"
    )
    """Steps in a row whose gradient is not finite (they are skipped) past which the run stops."""
    frozen: list[str] = field(default_factory=list)
    """Parameters that are not trained, by patterns over their Hugging Face names: `model.embed_tokens.*`."""
    peak_tflops: float | None = bounded(None, above=0, limit=Limit(1e6, "it counts 1e12 products per second"))
    """Dense matrix products that the device can do, in 1e12 FLOPs/s, for `utilisation`; null looks a GPU up by name."""
    routing_replay: RoutingReplay = RoutingReplay.none
    """Whose choice of experts is repeated: none, recorded (in the old log-probs' pass) or rollout (the engine's)."""
    mtp: Mtp = Mtp.frozen
    """The layer that predicts a token further (multi-token prediction): frozen, or trained by a loss of its own."""
    mtp_loss_scale: float = bounded(0.1, above=0, limit=Limit(1e6, "Adam moves by the direction of a gradient"))
    """Factor of the loss that trains that layer; no other gradient depends on it."""
    fake_quant: bool = False
    """Compute with weights rounded as engines hold them (`rollout.weights`), and train what is rounded: QAT."""
    fp8: EightBits = key(EightBits.none, shared="the critic and the policy train on the same micro-batches")
    """Compute the linears of layers in FP8, on GPUs (Transformer Engine): none, tensorwise, blockwise or mxfp8."""
    threads: int | None = bounded(1, at_least=1, limit=CORES, scope=Scope.execution, shared=_ONE_PROCESS)
    """CPU threads of each rank; null: its share of the cores (1 on GPUs)."""
    megatron: dict[str, Any] = passed_on("transformer")
    """Any further option of Megatron's TransformerConfig, by its own name."""
    ddp: dict[str, Any] = passed_on("ddp")
    """Any further option of Megatron's DistributedDataParallelConfig, by its own name."""

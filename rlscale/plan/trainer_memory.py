"""Memory of a trainer rank by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlscale.config.schema.trainer_config import Recompute
from rlscale.plan.activations import in_flight, kept_numbers, lasting_numbers
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout, StageWeights

GIB = 2**30

CONTEXT = 0.75 * GIB
"""What CUDA, its libraries and loaded kernels take of a device before the first tensor."""
GROUP = 0.4 * GIB
"""Buffers of NCCL for one group of ranks: 10 MB per channel and direction, some tens of them."""

_TILE = {True: 64 * 2**20, False: 16 * 2**20}
"""A tile of logits in float32, on a GPU and on the CPU (`trainer/megatron/steps/logprobs.py`)."""
_STATES = 7
"""Hidden states of all tokens that log-probs keep and make: normed, picked out, scaled, and their gradients."""
_FP8_COPIES = 2.0
"""Bytes of a linear's weight in FP8, as it is for the output and transposed for the input's gradient."""
_MAIN_GRADIENT, _MAIN_WEIGHT, _MOMENTS = 4, 4, 8


@dataclass(frozen=True)
class Training:
    """How a model is trained, besides its layout."""

    tokens: int
    """Of the longest micro-batch, before context parallelism cuts it."""
    recompute: Recompute = Recompute.none
    bytes_per_number: int = 2
    distributed_optimizer: bool = False
    optimizer_on_host: bool = False
    entropy: bool = False
    microbatches: int = 1_000_000
    on_gpu: bool = True
    trained: bool = True
    trained_share: float = 1.0
    """Of the parameters that have gradients and optimizer state: with `model.lora` that of the adapters."""
    bytes_per_kept: float | None = None
    """Of a linear's weight where the base of adapters is kept as codes and scales (`model.lora.base`)."""
    sequence: int = 0
    """Tokens of the longest sample."""
    rounds: bool = False
    """Whether its passes compute with rounded weights (`trainer.fake_quant`), while the others are kept."""
    eight_bits: bool = False
    """Whether its passes keep the weights of linears in FP8, too, as they are and transposed (`trainer.fp8`)."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes of a rank of one pipeline stage while it trains."""

    stage: int
    weights: float
    rounded: float
    """Copies of the weights that passes compute with; made anew by each, so they neither sleep nor are saved."""
    gradients: float
    optimizer: float
    activations: float
    """Kept for the backward pass, of all micro-batches in flight, and a layer at work."""
    logits: float
    communication: float
    context: float
    host_optimizer: float
    """In host memory: the optimizer's state with `optim.on_host`."""
    parameters: int

    @property
    def total(self) -> float:
        """All that is on the device."""
        static = self.weights + self.rounded + self.gradients + self.optimizer
        return static + self.activations + self.logits + self.communication + self.context

    @property
    def kinds(self) -> Mapping[str, float]:
        """Bytes on the device by kind."""
        return {
            "weights": self.weights,
            "copies of weights": self.rounded,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "logits": self.logits,
            "communication": self.communication,
            "CUDA context": self.context,
        }


def rank_memory(shape: ModelShape, layout: RankLayout, training: Training, stage: int) -> RankMemory:
    """The memory of a rank of a pipeline stage, counted from 0."""
    weights = StageWeights.of(shape, layout, stage)
    number = training.bytes_per_number
    tokens = training.tokens / layout.context
    kept, working = kept_numbers(
        shape,
        layout,
        weights,
        training.recompute,
        on_gpu=training.on_gpu,
        rounded_norms=number == 2 and not training.on_gpu,
        sequence=training.sequence,
    )
    flight = in_flight(layout, stage, training.microbatches)
    # A gradient that is not yet in the buffer is largest where the embedding's is made, when little else is left.
    at_work = working * tokens * number
    activations = max(kept * flight * tokens * number + at_work, float(weights.largest * number))
    activations += weights.brought * number + lasting_numbers(shape, layout, flight) * tokens * number
    logits = 0.0
    if weights.last:
        logits = _logits_bytes(shape, layout, training, tokens, at_work)
    state = _optimizer_bytes(weights, layout, training)
    return RankMemory(
        stage=stage,
        weights=_weight_bytes(weights, training),
        rounded=_rounded_bytes(weights, training),
        gradients=weights.parameters * _MAIN_GRADIENT * training.trained_share if training.trained else 0.0,
        optimizer=0.0 if training.optimizer_on_host else state,
        activations=activations,
        logits=logits,
        communication=_groups(layout) * GROUP if training.on_gpu else 0.0,
        context=CONTEXT if training.on_gpu else 0.0,
        host_optimizer=state if training.optimizer_on_host else 0.0,
        parameters=weights.parameters,
    )


def _logits_bytes(shape: ModelShape, layout: RankLayout, training: Training, tokens: float, at_work: float) -> float:
    """What log-probs take beyond a layer at work, which none is when they are made."""
    number = training.bytes_per_number
    tile = min(float(_TILE[training.on_gpu]), tokens * shape.vocabulary * 4.0)
    # Forward there is a second one for entropies. Backward there is the weight's gradient for a moment, which nobody
    # reads: it was added to the buffer already.
    forward = tile * (2 if training.entropy else 1)
    table = 0.0 if shape.tied or not training.trained else shape.embedding / layout.tensor * number
    rounded = tile / 2 if number == 2 else 0.0
    return max(0.0, max(forward, tile + table) + rounded + tokens * shape.hidden * _STATES * number - at_work)


def stages(layout: RankLayout) -> range:
    """The pipeline stages, counted from 0."""
    return range(layout.pipeline)


def _weight_bytes(weights: StageWeights, training: Training) -> float:
    """Norms and routers of a kept base, a thousandth of it, count as its linears."""
    number = training.bytes_per_number
    if training.bytes_per_kept is None:
        return float(weights.parameters * number)
    return weights.tables * number + (weights.parameters - weights.tables) * training.bytes_per_kept


def _rounded_bytes(weights: StageWeights, training: Training) -> float:
    rounded = _weight_bytes(weights, training) if training.rounds else 0.0
    if training.eight_bits:
        rounded += _FP8_COPIES * (weights.parameters - weights.tables)
    return rounded


def _optimizer_bytes(weights: StageWeights, layout: RankLayout, training: Training) -> float:
    if not training.trained:
        return 0.0
    per_parameter = (_MOMENTS + (_MAIN_WEIGHT if training.bytes_per_number < 4 else 0)) * training.trained_share
    if not training.distributed_optimizer:
        return float(per_parameter * weights.parameters)
    return per_parameter * (weights.dense / layout.copies + weights.experts / layout.expert_copies)


def _groups(layout: RankLayout) -> int:
    """Groups of several ranks that a rank is in: each has buffers of its own."""
    sizes = (layout.tensor, layout.pipeline, layout.context, layout.copies, layout.expert, layout.expert_copies)
    return sum(size > 1 for size in sizes) + (1 if layout.ranks > 1 else 0)

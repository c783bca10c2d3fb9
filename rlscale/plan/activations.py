"""Activations that a rank keeps for the backward pass, in numbers per token of its micro-batch.

Counted as the trainer's own layers keep them (`trainer/megatron/model/`): norms keep their input, a matrix its input,
attention its inputs and output, the gated MLP what comes out of its first matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema.trainer_config import Recompute
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout, StageWeights

FUSED, SEPARATE = 3, 4
"""Widths of a gated MLP that are kept: gate, up and product; without a fused operation silu(gate), too."""


@dataclass(frozen=True)
class LayerActivations:
    """Numbers that one layer keeps per token (of the rank's share of a micro-batch)."""

    input: float
    """What comes in, which is all that is kept where the layer is computed again."""
    attention: float
    core: float
    """Of the attention, what `recompute=selective` does not keep."""
    feed_forward: float
    gradients: float
    """Those that run through the layer while its backward pass is at work."""
    normed: float = 0.0
    """What norms keep besides, in float32, where no fused one is (`rounded_norms`)."""

    @property
    def whole(self) -> float:
        """Everything."""
        return self.input + self.attention + self.core + self.feed_forward + self.normed

    def kept(self, recompute: Recompute) -> float:
        """What is kept until the backward pass."""
        if recompute is Recompute.full:
            return self.input
        return self.whole - (self.core if recompute is Recompute.selective else 0)

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        layout: RankLayout,
        *,
        sparse: bool,
        on_gpu: bool,
        rounded_norms: bool = False,
        sequence: int = 0,
    ) -> LayerActivations:
        """Those of a layer with (sparse) or without experts.

        `rounded_norms`: norms of 16 bits on the CPU are torch's own, which keep two numbers of float32, what they are
        given and what they make of it before the weight, in the place of one of 16 bits. `sequence`: tokens of the
        longest sample.
        """
        outside = shape.hidden / (layout.tensor if layout.sequence else 1)
        query = shape.heads * shape.head_size / layout.tensor
        key = shape.key_heads * shape.head_size / layout.tensor
        # The inputs of the matrices are whole on every rank unless sequence parallelism gathers them anew each time.
        # What comes out of the projection, which the norms of heads keep too, and turned queries and keys.
        # What attention gives is the next matrix's input, and so kept in any case.
        attention = outside + (query + 2 * key) + (query + key) + query
        delta = outside + shape.delta_kept / layout.tensor
        attention += (delta - attention) * shape.delta_layers / shape.layers
        core = 0.0
        if layout.context > 1 and not on_gpu:  # there Transformer Engine passes them on from rank to rank
            # Keys and values of all ranks, what comes out in the order of the tokens, and of each a mask over a sample.
            core += (2 * layout.context - 1) * key + query + sequence
        normed = 0.0
        if rounded_norms:  # of heads, beside the projection that the values keep
            normed = 3 * 2 * outside + (4 * (query + key) if shape.head_norms else 0.0)
        widths = SEPARATE if on_gpu else FUSED
        if not sparse:
            inner = shape.inner / layout.tensor
            return cls(outside, attention, core, 2 * outside + widths * inner, 2 * outside + 2 * inner, normed)
        # Expert tensor parallelism gathers the tokens of its ranks.
        sent = shape.experts_per_token * layout.expert_tensor / (layout.tensor if layout.sequence else 1)
        # On GPUs, as Megatron was measured there: sent and received tokens, the experts' widths, and what comes back
        # before it is added up. On the CPU the layers keep received tokens, and the widths once more, weighted.
        tokens, kept = (3, SEPARATE) if on_gpu else (1, SEPARATE + 1)
        experts = sent * (tokens * shape.hidden + kept * shape.expert_inner / layout.expert_tensor)
        router = 2 * shape.experts / (layout.tensor if layout.sequence else 1)
        shared = widths * shape.shared_inner / layout.tensor
        gradients = sent * (shape.hidden + 2 * shape.expert_inner / layout.expert_tensor)
        inside = 2 * outside + experts + router + shared
        return cls(outside, attention, core, inside, 2 * outside + gradients, normed)


def in_flight(layout: RankLayout, stage: int, microbatches: int) -> float:
    """Micro-batches whose activations a stage holds at once, as parts of all its layers."""
    if layout.virtual > 1:
        chunks = 2 * (layout.pipeline - stage - 1) + (layout.virtual - 1) * layout.pipeline + 1
        return min(chunks / layout.virtual, microbatches)
    return min(layout.pipeline - stage, microbatches)


def lasting_numbers(shape: ModelShape, layout: RankLayout, flight: float) -> float:
    """Per token: what ranks exchange, however many layers there are; `flight` micro-batches are under way.

    The whole input that sequence parallelism gathers, into a buffer that Megatron keeps; what the last all-to-all sent
    to experts and brought back; a stage's outputs, and the gradients that come to it and go on.
    """
    outside = shape.hidden / (layout.tensor if layout.sequence else 1)
    gathered = shape.hidden if layout.sequence else 0
    sent = 2 * shape.experts_per_token * outside if layout.expert > 1 else 0
    return gathered + sent + ((flight + 2) * outside if layout.pipeline > 1 else 0)


def kept_numbers(
    shape: ModelShape,
    layout: RankLayout,
    weights: StageWeights,
    recompute: Recompute,
    *,
    on_gpu: bool,
    rounded_norms: bool = False,
    sequence: int = 0,
) -> tuple[float, float]:
    """Per token: (numbers that the stage's layers keep over all micro-batches in flight, those of one layer at work).

    The latter are a layer's own while it is computed again, and the gradients that run through it.
    """
    dense, sparse = (
        LayerActivations.of(
            shape, layout, sparse=experts, on_gpu=on_gpu, rounded_norms=rounded_norms, sequence=sequence
        )
        for experts in (False, bool(shape.experts))
    )
    behind = weights.sparse_layers + weights.predicting
    kept = weights.dense_layers * dense.kept(recompute) + behind * sparse.kept(recompute)
    largest = sparse if weights.sparse_layers else dense
    again = largest.whole if recompute is Recompute.full else 0.0
    return kept, largest.gradients + again

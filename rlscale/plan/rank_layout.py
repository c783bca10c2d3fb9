"""How a model is divided over trainer ranks, and what one stage of it holds."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.plan.model_shape import LayerWeights, ModelShape


@dataclass(frozen=True)
class RankLayout:
    """Sizes of the parallel groups."""

    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    virtual: int = 1
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    data: int = 1

    @classmethod
    def of(cls, config: Config) -> RankLayout:
        """Those of a configuration."""
        parallel = config.parallel
        return cls(
            parallel.tensor,
            parallel.sequence and parallel.tensor > 1,
            parallel.pipeline,
            parallel.virtual_pipeline or 1,
            parallel.context,
            parallel.expert,
            parallel.expert_tensor or 1,
            Sizes.of(config).data_parallel,
        )

    @property
    def ranks(self) -> int:
        """All ranks."""
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def copies(self) -> int:
        """Ranks among which the optimizer state of what is not an expert can be divided."""
        return self.data * self.context

    @property
    def expert_copies(self) -> int:
        """The same, of experts."""
        return max(1, self.tensor * self.context * self.data // (self.expert * self.expert_tensor))

    def stage_layers(self, layers: int) -> list[int]:
        """Layers of each stage; where they do not divide, the first stages have one more."""
        each, more = divmod(layers, self.pipeline)
        return [each + (stage < more) for stage in range(self.pipeline)]


@dataclass(frozen=True)
class StageWeights:
    """Parameters of a rank of one pipeline stage."""

    dense: int
    """Those that are not experts'."""
    experts: int
    tables: int
    """Those of embedding and output layer, among the former."""
    dense_layers: int
    sparse_layers: int
    first: bool
    last: bool
    predicting: int
    """Layers that predict a token further."""
    brought: int
    """Numbers of the first stage's embedding that the last one is given to train such a layer."""
    largest: int
    """Numbers of the largest tensor of the rank, whose gradient lies beside its place in the buffer for a moment."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.dense + self.experts

    @property
    def layers(self) -> int:
        """Layers of the stage."""
        return self.dense_layers + self.sparse_layers

    @classmethod
    def of(cls, shape: ModelShape, layout: RankLayout, stage: int) -> StageWeights:
        """Those of a stage, counted from 0."""
        per_stage = layout.stage_layers(shape.layers)
        begin = sum(per_stage[:stage])
        dense_layers = max(0, min(shape.dense_layers - begin, per_stage[stage]))
        sparse_layers = per_stage[stage] - dense_layers
        first, last = stage == 0, stage == layout.pipeline - 1
        words = -(-shape.vocabulary // layout.tensor) * shape.hidden
        # Tied, the last stage has a copy of its own where it is not the first one.
        tables = int(first) + int(last and not (shape.tied and first))
        own = tables * words + (shape.hidden if last else 0)
        for number, weights in ((dense_layers, shape.dense), (sparse_layers, shape.sparse)):
            own += number * (weights.split // layout.tensor + weights.whole)
        per_layer = shape.experts // layout.expert
        experts = sparse_layers * per_layer * shape.sparse.per_expert // layout.expert_tensor
        predicting = int(last and shape.predicting != LayerWeights())
        if predicting:
            own += shape.predicting.split // layout.tensor + shape.predicting.whole
            experts += per_layer * shape.predicting.per_expert // layout.expert_tensor
        layer = shape.dense if dense_layers else shape.sparse
        return cls(
            dense=own,
            experts=experts,
            tables=tables * words,
            dense_layers=dense_layers,
            sparse_layers=sparse_layers,
            first=first,
            last=last,
            predicting=predicting,
            brought=words if predicting and not first and not shape.tied else 0,
            largest=max(words if tables else 0, layer.largest // layout.tensor),
        )

"""When the policy's choice of experts is recorded and replayed, and what it was: see `trainer.routing_replay`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.batch.routing import Routing, RoutingCounts, router_share
from rlscale.trainer.megatron.model.expert_router import routed_layers
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.ranks.parallel import Ranks


@dataclass
class _Recorded:
    """The choices of one micro-batch, and its tokens to know it again by."""

    tokens: Tensor
    choices: dict[int, Tensor]


class PolicyRouting:
    """Gives the policy's passes their `Routing`. Of a model without experts it does nothing."""

    def __init__(self, mode: RoutingReplay, model: Model, ranks: Ranks, device: torch.device) -> None:
        self._mode, self._config, self._device = mode, model.config, device
        self._share = ranks.slicing.tensor_size, ranks.tensor_group.rank()
        self._layers = [layer.layer_number for chunk in model.bare for layer in routed_layers(chunk)]
        self._recorded: list[_Recorded] = []

    @contextmanager
    def scoring(self, microbatches: Sequence[MicroBatch]) -> Iterator[None]:
        """Within the block, passes over the micro-batches are those for the old log-probs.

        What is recorded is kept until the next such passes, or until it is replayed.
        """
        if self._mode is RoutingReplay.none or not self._has_experts:
            yield
            return
        routings = [self._routing(microbatch, self._brought(microbatch)) for microbatch in microbatches]
        if self._mode is RoutingReplay.recorded:
            for routing in routings:
                routing.record = {}
        with _given(microbatches, routings):
            yield
        self._recorded = [
            _Recorded(microbatch.tokens, routing.record)
            for microbatch, routing in zip(microbatches, routings, strict=True)
            if routing.record is not None
        ]

    @contextmanager
    def training(self, microbatches: Sequence[MicroBatch]) -> Iterator[RoutingCounts | None]:
        """Within the block, passes over the micro-batches are training passes; gives what to `reduce` after them.

        ValueError when the choices to replay were recorded for other micro-batches, or are not in the batch.
        """
        if not self._has_experts:
            yield None
            return
        if self._mode is RoutingReplay.rollout and any(batch.routed_experts is None for batch in microbatches):
            raise ValueError("trainer.routing_replay=rollout, but the batch has no column routed_experts")
        counts = RoutingCounts(self._config.num_layers, self._config.num_moe_experts, self._device)
        recorded = self._take_recorded(microbatches)
        routings = [
            self._routing(microbatch, given or self._brought(microbatch))
            for microbatch, given in zip(microbatches, recorded, strict=True)
        ]
        for routing in routings:
            routing.counts = counts
        with _given(microbatches, routings):
            yield counts

    @property
    def _has_experts(self) -> bool:
        return self._config.num_moe_experts is not None

    def _routing(self, microbatch: MicroBatch, given: Mapping[int, Tensor] | None) -> Routing:
        return Routing(~self._own(microbatch.sequences.padding), given)

    def _own(self, of_tokens: Tensor) -> Tensor:
        return router_share(of_tokens, *self._share)

    def _brought(self, microbatch: MicroBatch) -> Mapping[int, Tensor] | None:
        """The engine's choices by layer, where they are to be replayed and the batch has them."""
        experts = microbatch.routed_experts
        if self._mode is not RoutingReplay.rollout or experts is None:
            return None
        wanted = (self._config.num_layers, self._config.moe_router_topk)
        if experts.shape[1:] != wanted or (experts.size and experts.max() >= self._config.num_moe_experts):
            raise ValueError(
                f"routed_experts have {experts.shape[1:]} layers and experts per token, up to number "
                f"{experts.max(initial=-1)}; the policy has {wanted} of {self._config.num_moe_experts}"
            )
        # In one piece, this rank's layers alone, each of them contiguous.
        own = self._own(torch.from_numpy(experts)).movedim(1, 0)[[layer - 1 for layer in self._layers]].contiguous()
        return dict(zip(self._layers, own.to(self._device, non_blocking=True), strict=True))

    def _take_recorded(self, microbatches: Sequence[MicroBatch]) -> Sequence[Mapping[int, Tensor] | None]:
        """The recorded choices of each micro-batch; none are kept."""
        if self._mode is not RoutingReplay.recorded:
            return [None] * len(microbatches)
        recorded, self._recorded = self._recorded, []
        same = len(recorded) == len(microbatches) and all(
            torch.equal(known.tokens, microbatch.tokens)
            for known, microbatch in zip(recorded, microbatches, strict=True)
        )
        if not same:
            raise ValueError(
                "trainer.routing_replay=recorded, but no pass for the old log-probs was made over these micro-batches"
            )
        return [known.choices for known in recorded]


@contextmanager
def _given(microbatches: Sequence[MicroBatch], routings: Sequence[Routing]) -> Iterator[None]:
    for microbatch, routing in zip(microbatches, routings, strict=True):
        microbatch.sequences.routing = routing
    try:
        yield
    finally:
        for microbatch in microbatches:
            microbatch.sequences.routing = None

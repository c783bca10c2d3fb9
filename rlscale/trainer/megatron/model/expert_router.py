"""Megatron's router and layer of experts, told for each micro-batch whether a choice of experts is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from rlscale.trainer.megatron.batch.routing import Routing, router_share
from rlscale.trainer.megatron.model.balancing import BalancedRouter


class ReplayedTopK:
    """What stands in a router in the place of Megatron's `RouterReplay`, with its method's name.

    Megatron's keeps one queue of choices for all micro-batches, which several in flight (pipelines, recomputed
    activations) would take from in the wrong order. Here each micro-batch brings its own.
    """

    def __init__(self) -> None:
        self.routing: Routing | None = None
        """That of the micro-batch whose pass this is; None: the router chooses."""
        self.layer = 0
        """Number of the layer, from 1."""

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores [n, experts] -> the scores of the chosen experts, with gradient, and their numbers, [n, topk] each."""
        assert default_compute_topk is not None  # Megatron always gives it
        values, own = default_compute_topk(scores, topk, num_groups=num_groups, group_topk=group_topk)
        if self.routing is None:
            return values, own
        chosen = self.routing.choose(self.layer, own)
        return scores.gather(1, chosen), chosen


class Router(BalancedRouter):
    """Megatron's router, whose choice of experts can be replaced."""

    product: Callable[[Tensor, Tensor], Tensor] | None = None
    """Of tokens and the weight, in the place of Megatron's; None: Megatron's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.router_replay = self.choice = ReplayedTopK()

    def gating(self, input: Tensor) -> Tensor:
        """[tokens, 1, hidden] -> the experts' logits [tokens, 1, experts]."""
        if self.product is None:
            return super().gating(input)
        dtype = self.product_type(input.dtype)
        return self.product(input.to(dtype), self.weight.to(dtype))

    def product_type(self, given: torch.dtype) -> torch.dtype:
        """The type of that product in a model of a type, as engines': float32 for scores that are a sigmoid of it."""
        return torch.float32 if self.config.moe_router_score_function == "sigmoid" else given

    def _apply(self, *args: Any, **options: Any) -> Any:
        """As torch's, but the bias stays float32 when the model is made 16 bits: it decides between close scores."""
        super()._apply(*args, **options)
        self._maintain_float32_expert_bias()
        return self

    def set_layer_number(self, layer_number: int) -> None:
        """Number of the layer in the whole model, from 1."""
        super().set_layer_number(layer_number)
        self.choice.layer = layer_number


class RoutedLayer(MoELayer):
    """Megatron's layer of experts; computed again in the backward pass it repeats the choice of its own micro-batch."""

    moe_layer_recompute: bool

    def forward(
        self, hidden_states: Tensor, intermediate_tensors: Any = None, padding_mask: Tensor | None = None
    ) -> Any:
        """[tokens, 1, hidden] -> ([tokens, 1, hidden], None)."""
        choice: ReplayedTopK = self.router.choice
        routing = choice.routing
        if not self.moe_layer_recompute or routing is None:
            return super().forward(hidden_states, intermediate_tensors, padding_mask)

        def compute(hidden: Tensor) -> Tensor:
            # Backward passes of other micro-batches may have come in between.
            choice.routing, self.moe_layer_recompute = routing, False
            try:
                output, _ = super(RoutedLayer, self).forward(hidden, intermediate_tensors, padding_mask)
            finally:
                self.moe_layer_recompute = True
            return output

        return tensor_parallel.checkpoint(compute, False, hidden_states), None


def routed_layers(chunk: GPTModel, *, mtp: bool = False) -> Iterator[TransformerLayer]:
    """The transformer layers of a chunk that have experts.

    `mtp`: also that of the layer that predicts a token further, whose choice is neither repeated, counted nor balanced.
    """
    further = [chunk.mtp_layer.transformer_layer] if mtp and hasattr(chunk, "mtp_layer") else []
    return (layer for layer in (*chunk.decoder.layers, *further) if isinstance(layer.mlp, RoutedLayer))


def follow_microbatches(chunk: GPTModel) -> None:
    """Let the routers of a chunk follow the micro-batch that each pass is of: its `routing`, and what of it is padding.

    They are told where the layer is entered, which is also the place where a recomputed layer is entered again.
    (GPTModel takes a `padding_mask` too, but with sequence parallelism it cuts it on the first stage only.)
    """

    def enter(layer: Any, args: Any, options: dict[str, Any]) -> Any:
        router, sequences = layer.mlp.router, options["packed_seq_params"]
        router.choice.routing = sequences.routing
        if router.balancing is None:
            return None
        group, split = router.tp_group, layer.config.sequence_parallel
        padding = router_share(sequences.padding, group.size() if split else 1, group.rank())
        return args, {**options, "padding_mask": padding[None]}

    for layer in routed_layers(chunk):
        layer.register_forward_pre_hook(enter, with_kwargs=True)

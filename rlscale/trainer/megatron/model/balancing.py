"""Losses of the router itself, for balanced experts and small logits, in the scale of a step's loss.

Megatron adds them in the backward pass, multiplied by the number of a rank's tokens, and divides all gradients by the
number of all tokens when the step ends. Here gradients are sums that nothing divides, so each loss is divided by the
step's tokens where it is made. Padding counts nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from rlscale.config.derived.expert_routing import load_balancing
from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.ranks.parallel import Ranks

_NAMES = {"aux_loss": "load_balancing_loss", "global_aux_loss": "global_load_balancing_loss"}
"""Metrics of Megatron's types of load balancing."""
_Z_LOSS = "router_z_loss"


class BalancedRouter(TopKRouter):
    """Megatron's router with auxiliary losses whose sum over a step's micro-batches and ranks is the step's."""

    balancing: Balancing | None = None
    """What the routers of a model share; None in a model that is not trained, and where there is no such loss."""

    def apply_z_loss(self, logits: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Logits [n, experts] with the loss attached: the mean over the step's tokens of logsumexp squared."""
        coefficient = self.config.moe_z_loss_coeff
        if not coefficient or self.balancing is None or not (self.training and torch.is_grad_enabled()):
            return logits
        squares = logits.logsumexp(dim=-1).square()
        if padding_mask is not None:
            squares = squares.masked_fill(padding_mask, 0.0)
        return self._attach(logits, squares.sum(), coefficient, _Z_LOSS)

    def _apply_aux_loss(
        self, probs: Tensor, scores_for_aux_loss: Tensor, routing_map: Tensor, with_padding_mask: bool = False
    ) -> Tensor:
        """See `_balance`; the load is that of the micro-batch."""
        if self.balancing is None or not self.get_aux_loss_coeff("aux_loss"):
            return probs
        load = _summed(routing_map, self.tp_cp_group)
        return self._balance(probs, scores_for_aux_loss, load, "aux_loss")

    def _apply_global_aux_loss(
        self, probs: Tensor, scores_for_aux_loss: Tensor, routing_map: Tensor, with_padding_mask: bool = False
    ) -> Tensor:
        """See `_balance`; the load is that of the step, over all data-parallel ranks, up to this micro-batch."""
        if self.balancing is None or not self.get_aux_loss_coeff("global_aux_loss"):
            return probs
        assert self.balancing is not None
        load = self.balancing.load_so_far(self.layer_number, _summed(routing_map, self.tp_dp_cp_group))
        return self._balance(probs, scores_for_aux_loss, load, "global_aux_loss")

    def _balance(self, probs: Tensor, scores: Tensor, load: Tensor, kind: str) -> Tensor:
        """Probs with the loss of the Switch Transformer (arXiv 2101.03961, eq. 4) attached.

        Shapes: probs and scores [n, experts], load [experts] -> [n, experts]. Scores of padding are 0.
        Experts x the sum over experts of (share of the load) x (mean score); 1 where all are equal.
        """
        share = load / load.sum().clamp(min=1)  # a dummy has no tokens
        loss = load.numel() * (share * scores.sum(dim=0)).sum()
        return self._attach(probs, loss, self.get_aux_loss_coeff(kind), _NAMES[kind])

    def _attach(self, to: Tensor, of_tokens: Tensor, coefficient: float, name: str) -> Tensor:
        """`to`, whose backward pass adds the gradient of a sum over this rank's tokens, as a mean over the step's."""
        assert self.balancing is not None  # only trained models have gradients
        loss = of_tokens / self.balancing.tokens
        self.balancing.note(name, self.layer_number, loss.detach())
        attached: Tensor = MoEAuxLossAutoScaler.apply(to, coefficient * loss)
        return attached


class Balancing:
    """The auxiliary losses of one model's routers on this rank; without any it does nothing.

    `begin_iteration` and `metrics` are collective over all ranks.
    """

    def __init__(
        self, routers: Iterable[BalancedRouter], config: TransformerConfig, ranks: Ranks, device: torch.device
    ) -> None:
        """`routers`: of a model that is trained."""
        self.tokens = 0.0
        """Tokens of the step over all ranks, without padding."""
        self._ranks, self._device = ranks, device
        self._names = _losses(config)
        self._sums = torch.zeros(len(self._names), config.num_layers, dtype=torch.float64, device=device)
        self._tokens: list[float] = []
        self._load: dict[int, Tensor] = {}
        if self._names:
            for router in routers:
                router.balancing = self

    def begin_iteration(self, steps: Sequence[Sequence[MicroBatch]]) -> None:
        """Count the tokens of every step over all ranks."""
        if not self._names:
            return
        own = [float(sum(microbatch.sequences.lengths.sum() for microbatch in step)) for step in steps]
        tokens = torch.tensor(own, dtype=torch.float64, device=self._device)
        dist.all_reduce(tokens, group=self._ranks.data_context_group)
        self._tokens = (tokens / self._ranks.slicing.context_size).clamp(min=1).tolist()
        self._sums.zero_()

    def begin_step(self, number: int) -> None:
        """What follows are the passes of this step of the iteration."""
        if self._names:
            self.tokens, self._load = self._tokens[number], {}

    def load_so_far(self, layer: int, load: Tensor) -> Tensor:
        """The load [experts] of a layer in this step, that of one more micro-batch included."""
        self._load[layer] = self._load[layer] + load if layer in self._load else load
        return self._load[layer]

    def note(self, name: str, layer: int, loss: Tensor) -> None:
        """Add a rank's share of a loss of a layer (from 1) to the metrics."""
        self._sums[self._names.index(name), layer - 1] += loss

    def metrics(self, epochs: int) -> dict[str, float]:
        """Each loss without its coefficient: the mean over the iteration's steps and the layers that have it."""
        if not self._names:
            return {}
        dist.all_reduce(self._sums)  # every rank has other tokens or other layers
        means = self._sums / (epochs * len(self._tokens))
        layers = (means > 0).sum(dim=1).clamp(min=1)
        return dict(zip(self._names, (means.sum(dim=1) / layers).tolist(), strict=True))


def _losses(config: TransformerConfig) -> list[str]:
    """Names of the losses that a model's routers have."""
    if config.num_moe_experts is None:
        return []
    pairs = load_balancing(config.moe_router_load_balancing_type, config.moe_aux_loss_coeff)
    names = [_NAMES[kind] for kind, value in pairs if kind in _NAMES and value]
    return [*names, _Z_LOSS] if config.moe_z_loss_coeff else names


def _summed(routing_map: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Tokens of each expert, float64 [experts], over the ranks of a group."""
    load = routing_map.sum(dim=0).double()
    if group.size() > 1:
        dist.all_reduce(load, group=group)
    return load

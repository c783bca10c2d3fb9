"""Which experts the tokens of a micro-batch are sent to: choices that are repeated, recorded and counted.

A mixture of experts is trained on the log-probs of a model that chose experts; chosen again, by other weights or in
another engine, a token near a boundary goes to other experts and its log-prob jumps. Replay repeats the choice and
nothing else: the weights of the chosen experts are those of the present router, and its gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


class RoutingCounts:
    """What the experts of one model were given in the training passes of an iteration, on this rank until `reduce`."""

    def __init__(self, layers: int, experts: int, device: torch.device) -> None:
        """`layers`, `experts`: of the whole model."""
        self._load = torch.zeros(layers, experts, dtype=torch.float64, device=device)
        # Choices of all tokens in all layers: how many there were, were replayed, and differ from the router's own.
        self._choices = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, layer: int, chosen: Tensor, real: Tensor) -> None:
        """Choices int64 [n, top_k] of a layer (from 1); those of tokens that are not `real` (bool [n]) do not count."""
        weights = real.to(self._load.dtype)
        self._load[layer - 1].index_add_(0, chosen.reshape(-1), weights.repeat_interleave(chosen.shape[1]))
        self._choices[0] += weights.sum()

    def add_replayed(self, own: Tensor, chosen: Tensor, known: Tensor) -> None:
        """What the router would have chosen beside what was replayed, [n, top_k] each, where `known`, bool [n]."""
        changed = (own.sort(dim=1).values != chosen.sort(dim=1).values).any(dim=1)
        self._choices[1] += known.sum()
        self._choices[2] += (changed & known).sum()

    def reduce(self) -> dict[str, float]:
        """Metrics over all ranks, each of which has routed other tokens or other layers; collective over all of them.

        `expert_load_max`: tokens of the busiest expert over its layer's mean, of the worst layer. `expert_load_idle`:
        share of experts that no token was sent to. `routing_replayed`: share of choices that were replayed, and
        `routing_changed`: share of those for which the router would have chosen another set; both only with replay.
        """
        together = torch.cat([self._load.flatten(), self._choices])
        dist.all_reduce(together)
        load, (choices, replayed, changed) = together[:-3].view_as(self._load), together[-3:].tolist()
        load = load[load.sum(dim=1) > 0]  # a model may have layers without experts
        if not len(load):
            return {}
        metrics = {
            "expert_load_max": float((load.max(dim=1).values / load.mean(dim=1)).max()),
            "expert_load_idle": float((load == 0).double().mean()),
        }
        if replayed:
            metrics |= {"routing_replayed": replayed / choices, "routing_changed": changed / replayed}
        return metrics


def router_share(of_tokens: Tensor, ranks: int, rank: int) -> Tensor:
    """What a rank's routers see of [tokens, ...]: with sequence parallelism over `ranks` one of equal shares."""
    size = len(of_tokens) // ranks
    return of_tokens[rank * size : (rank + 1) * size] if ranks > 1 else of_tokens


@dataclass
class Routing:
    """The choice of experts in one micro-batch on this rank.

    n is the number of tokens that the rank's routers see: with sequence parallelism a share of the micro-batch's.
    """

    real: Tensor
    """bool [n]: which tokens are not padding."""
    given: Mapping[int, Tensor] | None = None
    """By layer (from 1) the choices to repeat, int16 [n, top_k]; -1 where the router is to choose."""
    record: dict[int, Tensor] | None = None
    """Where choices are recorded by layer, int16 [n, top_k]; None: nowhere."""
    counts: RoutingCounts | None = None
    """Where training passes count."""

    def choose(self, layer: int, own: Tensor) -> Tensor:
        """The choice of a layer (from 1) in the place of the router's own, int64 [n, top_k] both."""
        # A pass whose activations are computed again has gradients the second time only: each choice counts once.
        counts = self.counts if torch.is_grad_enabled() else None
        chosen = own
        if self.given is not None:
            given = self.given[layer].to(own.dtype)
            known = given >= 0
            chosen = torch.where(known, given, own)
            if counts is not None:
                counts.add_replayed(own, chosen, known[:, 0] & self.real)
        if self.record is not None:
            self.record[layer] = chosen.to(torch.int16)
        if counts is not None:
            counts.add(layer, chosen, self.real)
        return chosen

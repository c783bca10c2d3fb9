"""One step of a tiny float64 policy on its share of a batch: what the ranks of the split-invariance test run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Scope
from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.objective import Objective
from rlscale.trainer.objective_metrics import Metrics, finish
from rlscale.trainer.value_objective import ValueObjective

VOCABULARY = 11
WIDTH = 5
VERSION = 3


class ToyPolicy(torch.nn.Module):
    """Next-token logits and values from the mean of the tokens so far; float64, the same weights everywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)
        self.value = torch.nn.Linear(WIDTH, 1)
        self.double()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probs, entropies and values of every token of the batch, [T] each, and log-probs of all words, [T, V]."""
        lengths = torch.from_numpy(batch.lengths)
        place = torch.arange(max(batch.lengths.tolist(), default=0))
        inside = place < lengths[:, None]
        padded = torch.zeros(inside.shape, dtype=torch.int64)
        padded[inside] = tokens = torch.from_numpy(batch.column("tokens").astype(np.int64))
        so_far = self.embedding(padded).cumsum(1) / (place + 1)[:, None]
        seen = torch.cat([so_far[:, :1] * 0, so_far[:, :-1]], dim=1)[inside]
        distribution = torch.log_softmax(self.head(seen), dim=-1)
        logprobs = distribution.gather(1, tokens[:, None])[:, 0]
        return logprobs, -(distribution.exp() * distribution).sum(-1), self.value(seen)[:, 0], distribution


@dataclass(frozen=True)
class Case:
    """A prepared batch, divided."""

    algo: AlgoConfig
    critic: bool
    parts: list[RankShard]
    """One per rank."""


@dataclass(frozen=True)
class Step:
    """Everything that a step gives, over all ranks."""

    loss: float
    metrics: dict[str, float]
    gradient: np.ndarray
    """All parameters', in one vector."""


def run_cases(rank: int, world_size: int, address: str, port: int, cases: list[Case]) -> list[Step]:
    """One step of every case, each rank on its own part."""
    dist.init_process_group("gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=world_size)
    try:
        return [run_case(case, rank) for case in cases]
    finally:
        dist.destroy_process_group()


def run_case(case: Case, rank: int) -> Step:
    """The sums of this rank's micro-batches, added over the ranks where there are several."""
    policy = ToyPolicy()
    (steps,) = case.parts[rank].steps
    loss = torch.zeros(1, dtype=torch.float64)
    shares: list[Metrics] = []
    for rows in steps:
        share, metrics = _share(case, policy, case.parts[rank].batch.select(rows))
        share.backward()
        loss += share.detach()
        shares.append(metrics)
    sums = torch.stack([torch.stack([m.sums[name] for name in shares[0].sums]) for m in shares]).sum(0)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in policy.parameters()]
    total = torch.cat([loss, sums, *(gradient.reshape(-1) for gradient in gradients)])
    maxima = torch.zeros(0, dtype=torch.float64)
    if shares[0].maxima:
        maxima = torch.stack([torch.stack([m.maxima[name] for name in shares[0].maxima]) for m in shares]).amax(0)
    if dist.is_initialized():
        dist.all_reduce(total)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    names = list(shares[0].sums)
    named = dict(zip(names, total[1 : 1 + len(names)].tolist(), strict=True))
    metrics = finish(named, dict(zip(shares[0].maxima, maxima.tolist(), strict=True)))
    return Step(float(total[0]), metrics, total[1 + len(names) :].numpy())


def _share(case: Case, policy: ToyPolicy, batch: Batch) -> tuple[Tensor, Metrics]:
    """A micro-batch's share of the policy's and, where there is one, the critic's loss."""
    logprobs, entropy, values, distribution = policy(batch)
    fields = {n: torch.from_numpy(column) for n, column in batch.columns.items() if FIELDS[n].scope is Scope.token}
    row = torch.from_numpy(np.repeat(np.arange(batch.rows), batch.lengths))

    def segment_sum(x: Tensor) -> Tensor:
        return x.new_zeros(batch.rows).index_add(0, row, x)[row]

    objective = Objective.of(case.algo)
    version = {"version": torch.tensor(VERSION)}
    words = distribution.gather(1, fields["sampler_words"].long()) if objective.needs.sampler_words else None
    loss, metrics = objective(logprobs, entropy, {**fields, **version}, segment_sum, words)
    if case.critic:
        value_loss, critic = ValueObjective(CriticConfig())(values, fields)
        loss = loss + value_loss
        metrics.sums.update({f"critic_{name}": value for name, value in critic.sums.items() if name != "tokens"})
    return loss, metrics

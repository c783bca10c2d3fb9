"""The choice of experts in one micro-batch."""

from __future__ import annotations

import torch

from rlscale.trainer.megatron.batch.routing import Routing
from rlscale.trainer.megatron.model.expert_router import ReplayedTopK

REAL = torch.tensor([True, True, False])
OWN = torch.tensor([[0, 1], [2, 3], [1, 0]])


def top_two(scores: torch.Tensor, topk: int, num_groups: int | None, group_topk: int | None) -> tuple:
    assert num_groups is group_topk is None
    return torch.topk(scores, topk, dim=1)


def test_given_choices_replace_the_routers_and_unknown_ones_do_not() -> None:
    given = torch.tensor([[3, 0], [-1, -1], [-1, -1]], dtype=torch.int16)
    chosen = Routing(REAL, {2: given}).choose(2, OWN)
    assert chosen.tolist() == [[3, 0], [2, 3], [1, 0]]
    assert chosen.dtype == torch.int64


def test_what_is_recorded_is_what_was_chosen_and_can_be_given_again() -> None:
    record: dict[int, torch.Tensor] = {}
    Routing(REAL, record=record).choose(1, OWN)
    assert record[1].dtype == torch.int16
    assert Routing(REAL, record).choose(1, OWN.flip(1)).tolist() == OWN.tolist()


def test_a_router_that_nobody_tells_anything_chooses_by_itself() -> None:
    choice = ReplayedTopK()
    scores = torch.tensor([[0.1, 0.7, 0.2]])
    values, experts = choice.get_replay_topk(scores, 2, default_compute_topk=top_two)
    assert experts.tolist() == [[1, 2]]
    assert torch.equal(values, scores[:, [1, 2]])


def test_the_scores_of_replayed_experts_keep_their_gradient() -> None:
    choice = ReplayedTopK()
    choice.layer, choice.routing = 1, Routing(torch.tensor([True]), {1: torch.tensor([[2, 0]], dtype=torch.int16)})
    scores = torch.tensor([[0.1, 0.7, 0.2]], requires_grad=True)
    values, experts = choice.get_replay_topk(scores, 2, default_compute_topk=top_two)
    assert experts.tolist() == [[2, 0]]
    (values * torch.tensor([[10.0, 1.0]])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[1.0, 0.0, 10.0]]

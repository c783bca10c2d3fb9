"""Metrics of the router's own losses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from megatron.core.transformer import TransformerConfig

from rlscale.trainer.megatron.model.balancing import Balancing
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.ranks.slicing import Slicing


@pytest.fixture(autouse=True)
def _one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_mean_is_over_the_layers_that_have_a_loss_and_0_where_none_has() -> None:
    group = dist.group.WORLD
    ranks = Ranks(Slicing(), group, group, group, group, data_rank=0, data_size=1, first_stage=True, last_stage=True)
    config = TransformerConfig(
        num_layers=3,
        hidden_size=8,
        num_attention_heads=2,
        num_moe_experts=4,
        add_bias_linear=False,
        moe_router_load_balancing_type="aux_loss",
        moe_aux_loss_coeff=1e-3,
        moe_z_loss_coeff=1e-3,
    )
    balancing = Balancing([], config, ranks, torch.device("cpu"))
    balancing.begin_iteration([[], []])
    balancing.note("router_z_loss", 1, torch.tensor(6.0))
    balancing.note("router_z_loss", 3, torch.tensor(2.0))
    assert balancing.metrics(epochs=1) == {"load_balancing_loss": 0.0, "router_z_loss": 2.0}

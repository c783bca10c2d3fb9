"""A copy of a composed node is what `copy.deepcopy` makes of it, and changes apart from it."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf

from rlscale.config.composition.compose import compose_node
from rlscale.config.composition.node_copy import copy_of
from tests.unit.config.composition.test_quick_loader import nodes


def composed() -> DictConfig:
    return compose_node(None, ["algo=ppo", "run.seed=1"]).node


def test_a_copy_knows_all_that_a_deep_copy_knows() -> None:
    node = composed()
    assert list(nodes(copy_of(node))) == list(nodes(copy.deepcopy(node)))
    assert copy_of(node.critic, node)._get_full_key("optim") == "critic.optim"


def test_values_lists_and_flags_of_a_copy_change_apart_from_the_first() -> None:
    node = composed()
    before = OmegaConf.to_yaml(node)
    copied = copy_of(node)
    copied.optim.lr = 123.0
    copied.tracker.kinds.append("wandb")
    OmegaConf.set_readonly(copied.algo, True)
    assert OmegaConf.to_yaml(node) == before
    assert not OmegaConf.is_readonly(node.algo)
    assert copied.critic.optim.lr == 123.0, "what follows another key follows it inside the copy"

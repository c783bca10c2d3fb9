"""The critic's sections are the policy's, value by value, until they are set."""

from __future__ import annotations

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.keys import config_hash


def test_an_unset_critic_has_the_policys_values(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["algo=ppo", "optim.lr=0.125", "trainer.recompute=full", "optim.megatron.a=1"])
    assert config.critic.model == config.model
    assert config.critic.optim == config.optim
    assert config.critic.trainer == config.trainer


def test_a_value_that_is_set_is_its_own_and_the_others_follow(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["algo=ppo", "critic.optim.lr=0.5", "optim.lr=0.25", "optim.eps=0.125"])
    assert (config.critic.optim.lr, config.optim.lr) == (0.5, 0.25)
    assert (config.critic.optim.eps, config.optim.eps) == (0.125, 0.125)


@pytest.mark.parametrize("first", [True, False])
def test_open_options_that_are_set_are_its_own_alone(plain_recipe: str, first: bool) -> None:
    overrides = ["optim.megatron.a=1", "critic.optim.megatron.b=2"]
    config = compose(plain_recipe, ["algo=ppo", *(overrides if first else reversed(overrides))])
    assert (config.optim.megatron, config.critic.optim.megatron) == ({"a": 1}, {"b": 2})
    config = compose(plain_recipe, ["algo=ppo", "optim.megatron.a=1", "critic.optim.megatron={}"])
    assert (config.optim.megatron, config.critic.optim.megatron) == ({"a": 1}, {})


def test_a_section_inside_that_is_set_follows_with_its_other_values(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["algo=ppo", "critic.model.create.seed=7"])
    assert config.model.create is not None
    assert config.critic.model.create is not None
    assert (config.model.create.seed, config.critic.model.create.seed) == (0, 7)
    assert config.critic.model.create.architecture == config.model.create.architecture


def test_the_critic_is_read_only(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["algo=ppo"])
    with pytest.raises(AttributeError, match="read-only"):
        config.critic.optim.lr = 1.0
    with pytest.raises(AttributeError, match="read-only"):
        config.algo.correction.rejection.veto = 1.0


def test_a_value_that_follows_is_the_same_configuration_as_the_same_value_set(plain_recipe: str) -> None:
    following = compose(plain_recipe, ["algo=ppo", "optim.lr=0.5"])
    given = compose(plain_recipe, ["algo=ppo", "optim.lr=0.5", "critic.optim.lr=0.5"])
    assert config_hash(following) == config_hash(given)
    other = compose(plain_recipe, ["algo=ppo", "critic.optim.lr=0.5"])
    assert config_hash(other) not in (config_hash(following), config_hash(compose(plain_recipe, ["algo=ppo"])))

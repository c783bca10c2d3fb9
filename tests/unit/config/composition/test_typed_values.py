"""A composed node becomes the dataclasses that OmegaConf would make of it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlscale.config.composition.compose import compose_node
from rlscale.config.composition.typed_values import typed


@pytest.mark.parametrize(
    "overrides",
    [
        ["critic.optim.lr=0.5", "critic.model.create.seed=7", "optim.megatron={a: [1, {b: null}]}"],
        ["eval.temperature=${run.seed}", "data.system_prompt='costs \\${5}'", "optim.lr=${critic.optim.eps}"],
        ["data.max_number=${oc.select:run.iterations,3}", "eval.data.max_number=${rollout.max_prompt_tokens}"],
    ],
    ids=["values", "types and texts", "resolvers"],
)
def test_they_are_what_omegaconf_makes_of_it(plain_recipe: str, overrides: list[str]) -> None:
    node = compose_node(plain_recipe, overrides).node
    made = typed(node)
    assert made == OmegaConf.to_object(node)
    assert repr(made) == repr(OmegaConf.to_object(node))  # 1 is not 1.0


@pytest.mark.parametrize("value", ["???", "${nowhere.at_all}", "${run.seed.inside}", "${critic.optim.lr}"])
def test_what_omegaconf_refuses_is_refused_in_its_words(plain_recipe: str, value: str) -> None:
    node = compose_node(plain_recipe).node
    node.optim.lr = value  # the last one follows what follows it
    with pytest.raises((OmegaConfBaseException, RecursionError)) as expected:
        OmegaConf.to_object(node)
    with pytest.raises(type(expected.value)) as refused:
        typed(node)
    if isinstance(refused.value, OmegaConfBaseException):
        assert str(refused.value) == str(expected.value)
        assert refused.value.full_key == expected.value.full_key

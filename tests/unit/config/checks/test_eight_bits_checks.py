"""Training in FP8 is refused by name where it cannot be, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.errors import ConfigError

GPUS = ("cluster=node8", "rollout.engines=8", "trainer.fp8=blockwise")
SIXTEEN = (*GPUS, "model.dtype=bfloat16")
MODEL = "model.create.architecture"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["trainer.fp8=tensorwise"], "trainer.fp8=tensorwise needs Transformer Engine, which does not run on the CPU"),
        ([*GPUS], "trainer.fp8=blockwise needs Transformer Engine, which trains models in 16 bits; set model.dtype="),
        (
            [*SIXTEEN, "rollout.weights=int4", "trainer.fake_quant=true"],
            "trainer.fp8=blockwise with trainer.fake_quant=true: weights would be rounded twice",
        ),
        ([*SIXTEEN, "model.lora.rank=8"], "trainer.fp8=blockwise with model.lora: adapters beside a base in FP8"),
        (
            [*SIXTEEN, f"{MODEL}.intermediate_size=312", "parallel.tensor=4"],
            "trainer.fp8=blockwise: mlp.linear_fc1.weight is 156 x 128 on each rank, and 16 does not divide both; use",
        ),
        (
            [*SIXTEEN, "trainer.fp8=mxfp8", f"{MODEL}.intermediate_size=400"],
            "trainer.fp8=mxfp8: mlp.linear_fc2.weight is 128 x 400 on each rank, and 32 does not divide both",
        ),
        (
            [*SIXTEEN, "trainer.recompute=selective", "trainer.megatron.recompute_modules=[moe]"],
            "trainer.fp8=blockwise with trainer.megatron.recompute_modules=[moe]: experts would be computed",
        ),
        (
            [*SIXTEEN, "algo=ppo", "critic.trainer.fp8=none"],
            "critic.trainer.fp8=none differs from trainer.fp8=blockwise, but the critic and the policy train on the",
        ),
    ],
)
def test_what_cannot_be_computed_in_eight_bits_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(None, overrides))
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


def test_families_that_transformer_engine_has_no_layers_of_are_refused() -> None:
    config = compose(None, ["model=glm4_9b", "cluster=node8", "rollout.engines=8", "trainer.fp8=blockwise"])
    with pytest.raises(ConfigError) as caught:
        check(config, architecture_of(config.model))
    assert any("Transformer Engine has no layers of glm4; use none" in line for line in caught.value.problems)


@pytest.mark.parametrize("recipe", ["tensorwise", "blockwise", "mxfp8"])
def test_on_gpus_in_16_bits_nothing_is_refused(recipe: str) -> None:
    check(compose(None, [*SIXTEEN, f"trainer.fp8={recipe}", f"{MODEL}.num_key_value_heads=4"]))


def test_a_critic_with_sizes_of_its_own_is_looked_at_as_well(tmp_path: Path) -> None:
    architecture = dict(compose().model.create.architecture) | {"vocab_size": 20, "intermediate_size": 392}
    (tmp_path / "config.json").write_text(json.dumps(architecture))
    critic = ("algo=ppo", "critic.model.name=own", f"critic.model.path={tmp_path}", "critic.model.create=null")
    with pytest.raises(ConfigError) as caught:
        check(compose(None, [*SIXTEEN, *critic, f"{MODEL}.num_key_value_heads=4"]))
    line = "critic.trainer.fp8=blockwise: mlp.linear_fc2.weight is 128 x 392 on each rank, and 16 does not divide both"
    assert any(line in problem for problem in caught.value.problems), caught.value.problems

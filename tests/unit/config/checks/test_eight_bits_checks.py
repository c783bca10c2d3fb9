"""Training in FP8 is refused by name where it cannot be, before anything starts."""

from __future__ import annotations

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
            "trainer.fp8=blockwise: intermediate_size=312 over 4 ranks is no multiple of 16",
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

"""What `model.lora` may say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.stage_configs import compose_warm_start

MIXTURE = ["model=tiny_qwen3_moe", "rollout.max_prompt_tokens=64", "rollout.max_response_tokens=64"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.lora={dropout: 0.1}"], "model.lora.dropout=0.1: what drops out is another policy"),
        (["model.lora={targets: []}"], "model.lora.targets=[]: leaves nothing to train"),
        (["model.lora={rank: 0}"], "model.lora.rank=0: must be at least 1"),
        (
            ["model.lora={targets: ['*.q_prj']}"],
            "model.lora.targets=*.q_prj: matches no linear that can have an adapter",
        ),
        (["model.lora={targets: [lm_head]}"], "model.lora.targets=lm_head: matches no linear that can have an adapter"),
        (["model.lora={}", "trainer.frozen=['*norm*']"], "trainer.frozen names parameters of the model"),
        (["model.lora={}", "optim.groups.a={pattern: '*norm*', lr_mult: 2}"], "optim.groups names parameters of the"),
        (
            ["model.lora={}", "rollout.weights=fp8_tensor"],
            "rollout.weights=fp8_tensor: the trainer does not know",
        ),
        (
            ["model.lora={dtype: bfloat16}"],
            "model.lora.dtype=bfloat16 with model.dtype=float32: adapters are",
        ),
        (
            ["model.lora={path: there}", "run.generate_only=true", "rollout.store=all", "warm_start=null"],
            "run.generate_only=true: engines serve a folder as it is, and model.lora.path=",
        ),
        (["model.lora={}", "algo=ppo", "critic.model.lora=null"], "critic.model.lora: a critic is trained as a whole"),
        (
            [*MIXTURE, "model.lora={targets: ['*.experts.0.*']}"],
            "model.lora.targets: picks model.layers.0.mlp.experts.0.gate_proj, and not model.layers.0.mlp.experts.1.",
        ),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(
    problems: Callable[..., list[str]], overrides: list[str], line: str
) -> None:
    (found,) = problems(*overrides)
    assert found.startswith(line)


def test_a_layer_that_predicts_a_token_further_is_not_trained_beside_adapters(
    problems: Callable[..., list[str]],
) -> None:
    assert any("with model.lora only adapters" in line for line in problems("model.lora={}", "trainer.mtp=trained"))


@pytest.mark.parametrize("lora", ["{}", "{rank: 4, targets: ['*.q_proj', '*.self_attn.v_proj'], init: gaussian}"])
def test_an_adapter_is_fine_on_dense_models_and_on_attention_of_mixtures(
    problems: Callable[..., list[str]], lora: str
) -> None:
    assert problems(f"model.lora={lora}") == []
    assert problems(*MIXTURE, f"model.lora={lora}") == []
    assert problems("algo=ppo", f"model.lora={lora}") == []


def test_what_comes_before_a_run_trains_the_model_on_which_its_adapters_stand() -> None:
    config = compose(None, ["model.lora={rank: 4}"])
    assert config.model.lora is not None
    assert config.model.lora.rank == 4
    assert compose_warm_start(config).model.lora is None

"""Which engines can be given an adapter by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.families.config_file import complete

ADAPTER = ["model.lora={}", "weights.lora=adapter"]
MIXTURE = ["model=tiny_qwen3_moe", "rollout.max_prompt_tokens=64", "rollout.max_response_tokens=64"]


@pytest.mark.parametrize("more", [[], MIXTURE, ["cluster.placement=disaggregated"], ["rollout.on_sync=wait"]])
def test_engines_of_the_run_are_given_adapters_of_dense_models_and_of_attention(
    problems: Callable[..., list[str]], more: list[str]
) -> None:
    assert problems(*ADAPTER, *more) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["weights.lora=adapter"], "weights.lora=adapter: there is no adapter without model.lora"),
        (
            [*ADAPTER, "weights/transport=disk"],
            "weights.transport=rlscale.weights.transports.disk.DiskTransport carries whole weights",
        ),
        ([*ADAPTER, "+rollout.sglang.max_lora_rank=4"], "rollout.sglang.max_lora_rank: follows from model.lora"),
        (
            [*ADAPTER, "rollout.engine_groups.a.sglang.max_lora_rank=4"],
            "rollout.engine_groups.a.sglang.max_lora_rank: follows from model.lora",
        ),
        (
            [*ADAPTER, "rollout.engine_groups.a.sglang.dp_size=2", "rollout.engine_groups.b.sglang.dp_size=1"],
            "rollout.engine_groups.a.sglang.dp_size=2: SGLang hands an adapter to one process",
        ),
        (
            [*ADAPTER, "+rollout.sglang.tokenizer_worker_num=2"],
            "rollout.sglang.tokenizer_worker_num=2: SGLang hands an adapter to one process",
        ),
        ([*ADAPTER, "rollout.engine_urls=['http://one:1']"], "weights.lora=adapter: engines of rollout.engine_urls"),
        (
            [*ADAPTER, "run.generate_only=true", "rollout.store=all", "warm_start=null"],
            "weights.lora=adapter is never read",
        ),
    ],
)
def test_an_adapter_that_no_engine_can_be_given_is_refused(
    problems: Callable[..., list[str]], overrides: list[str], line: str
) -> None:
    (found,) = problems(*overrides)
    assert found.startswith(line)


def of_family(recipe: str, family: str, *overrides: str) -> list[str]:
    """The lines about adapters, for a model of that family."""
    fixture = Path(__file__).parents[3] / "fixtures" / "families" / f"{family}.json"
    try:
        check(compose(recipe, [*ADAPTER, *overrides]), complete(json.loads(fixture.read_text())))
    except ConfigError as error:
        return [line for line in error.problems if "lora" in line]
    return []


@pytest.mark.parametrize(
    ("family", "line"),
    [
        ("qwen3_next", "weights.lora=adapter: SGLang does not serve adapters of qwen3_next"),
        ("deepseek_v3", "weights.lora=adapter: SGLang does not serve adapters of deepseek_v3"),
        ("glm4_moe", "weights.lora=adapter: with adapters on down_proj SGLang expects some on experts"),
    ],
)
def test_models_and_linears_of_which_sglang_serves_no_adapters_are_refused(
    plain_recipe: str, family: str, line: str
) -> None:
    (found,) = of_family(plain_recipe, family)
    assert found.startswith(line)


def test_adapters_of_experts_are_not_served_by_themselves(plain_recipe: str) -> None:
    (found,) = of_family(plain_recipe, "qwen3_moe", "model.lora={targets: ['*.experts.*', '*.self_attn.*']}")
    assert found.startswith(
        "weights.lora=adapter: model.lora.targets picks model.layers.0.mlp.experts.0.gate_proj, and"
    )


def test_adapters_on_the_attention_of_a_mixture_are_served(plain_recipe: str) -> None:
    assert of_family(plain_recipe, "glm4_moe", "model.lora={targets: ['*.self_attn.*']}") == []

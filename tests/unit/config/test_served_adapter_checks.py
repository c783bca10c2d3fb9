"""Which engines can be given an adapter by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
        (["weights.lora=adapter"], "weights.lora=adapter: nothing has adapters without model.lora"),
        (
            [*ADAPTER, "weights/transport=disk"],
            "weights.transport=rlscale.weights.transports.disk.DiskTransport carries whole weights",
        ),
        ([*ADAPTER, "+rollout.sglang.max_lora_rank=4"], "rollout.sglang.max_lora_rank: follows from model.lora"),
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

"""Layouts that do not fit the model or the GPUs are refused with a line that says which sizes do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Problems = Callable[..., list[str]]

DISAGGREGATED = "cluster.placement=disaggregated"
NODE8 = ("cluster=node8", "rollout.engines=8")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["parallel.tensor=8"], "does not divide the 4 key-value heads of qwen3_30b; use 1, 2 or 4"),
        (["parallel=moe_8gpu", "parallel.expert=3"], "the 128 experts of qwen3_30b; use 1, 2, 4 or 8"),
        (
            ["parallel=moe_8gpu", "parallel.expert=256", "parallel.expert_tensor=2"],
            "the 128 experts of qwen3_30b; use 1, 2 or 4",
        ),
        (["parallel=moe_8gpu", "parallel.expert=16"], "does not divide the 8 trainer ranks of a pipeline stage"),
        (["parallel=moe_8gpu", "parallel.sequence=false"], "with experts needs parallel.sequence=true"),
        (["parallel=moe_8gpu", "parallel.expert=16"], "use parallel.expert=1, 2, 4 or 8"),
        (["parallel=moe_8gpu", "parallel.expert_tensor=512"], "=768 of qwen3_30b; use 1"),
        (["parallel.tensor=2"], "parallel.tensor=2 with experts needs parallel.sequence=true"),
        (
            ["parallel=moe_8gpu", "parallel.data=4"],
            "= 16 trainer ranks, but the cluster has 8 GPUs for the trainer; use parallel.data=2, or choose a larger",
        ),
        (
            ["parallel=moe_8gpu", "parallel.context=3"],
            "use tensor x pipeline x context of at most 8, or choose a larger",
        ),
        (
            ["parallel=moe_8gpu", "rollout.gpus_per_engine=3"],
            "does not divide the 8 GPUs of a machine; use 1, 2, 4 or 8",
        ),
        (["parallel=moe_8gpu", "rollout.engines=9"], "use at most 8 engines"),
        (
            ["cluster.gpus_per_node=6", "parallel.pipeline=4"],
            "the 6 GPUs of the trainer; use 1, 2, 3 or 6, or parallel.data=1",
        ),
        (["cluster.gpus_per_node=0"], "cluster.device=cuda needs GPUs"),
        (["cluster.rollout_gpus=2"], "is not read when colocated"),
        (
            ["parallel=moe_8gpu", "rollout.engines=1"],
            "rollout.engines=1 x gpus_per_engine=1 = 1 GPUs, but colocated engines use the same 8 GPUs as the trainer; "
            "use rollout.engines=8 with rollout.gpus_per_engine=1, or rollout.engines=4 with rollout.gpus_per_engine=2",
        ),
        (["parallel=moe_8gpu", "parallel.data=1"], "use the same 4 GPUs as the trainer; use rollout.engines=4 with"),
        ([DISAGGREGATED], "leaves no GPUs for the engines"),
        (
            [DISAGGREGATED, "cluster.rollout_gpus=4", "rollout.engines=3", "eval.engines=2"],
            "rollout.engines=3 + eval.engines=2 x gpus_per_engine=1 = 5 GPUs, but the cluster has 4 for them; use at",
        ),
        (
            [DISAGGREGATED, "cluster.rollout_gpus=1", "rollout.engine_urls=['http://a:1']", "eval.engines=2"],
            "eval.engines=2 x gpus_per_engine=1 = 2 GPUs, but the cluster has 1 for engines; lower it",
        ),
        ([DISAGGREGATED, "cluster.rollout_gpus=8"], "the engines get every GPU"),
        (["cluster.nodes=2"], "needs a running Ray cluster; give cluster.ray_address"),
        (["cluster.nodes=2", "cluster.ray_address=auto"], "other machines cannot reach it"),
        (
            ["cluster.ray_address=ray://head:10001"],
            "is not an address; write host:port, without ray://, on a machine of that cluster, or auto",
        ),
        (["rollout.engine_urls=['http://a:1']"], "use cluster.placement=disaggregated"),
    ],
)
def test_a_layout_that_does_not_fit_the_gpus_is_refused(
    problems: Problems, hf: Path, overrides: list[str], line: str
) -> None:
    found = problems("model=qwen3_30b", *NODE8, f"model.path={hf}/qwen3_30b", *overrides)
    assert any(line in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


def test_gated_delta_nets_need_whole_sequences_and_whole_key_heads(problems: Problems, hf: Path) -> None:
    given = ["model=qwen3_next_80b", *NODE8, f"model.path={hf}/qwen3_next_80b", "rollout.gpus_per_engine=8"]
    whole = "parallel.context=2: the gated delta nets of qwen3_next_80b need all tokens of a sequence on one rank"
    assert f"{whole}; set it to 1" in problems(*given, "parallel.context=2")
    heads = "parallel.tensor=4 does not divide the 2 key-value heads of qwen3_next_80b; use 1 or 2"
    assert heads in problems(*given, "parallel.tensor=4", "parallel.sequence=true")


@pytest.mark.parametrize(
    "fault", ["parallel.expert=3", "parallel.expert_tensor=5", "parallel.context=3", "rollout.gpus_per_engine=3"]
)
def test_one_fault_of_a_layout_is_one_line(problems: Problems, hf: Path, fault: str) -> None:
    (line,) = problems("model=qwen3_30b", *NODE8, f"model.path={hf}/qwen3_30b", fault)
    assert "; use 1, 2, 4 or 8" in line


def test_the_values_that_a_line_names_suit_every_size_that_is_cut(problems: Problems) -> None:
    given = ["parallel.tensor=4", "parallel.pipeline=1"]
    given += [f"model.create.architecture.{size}" for size in ("num_key_value_heads=4", "intermediate_size=510")]
    assert problems(*given) == ["parallel.tensor=4 does not divide intermediate_size=510 of four_heads; use 1 or 2"]

"""Options of a mixture of experts that would be silently wrong are one line that says why and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from tests.unit.config.mixture import MOE

Problems = Callable[..., list[str]]

KEY = "trainer.megatron"
NODE8 = ("cluster=node8", "rollout.engines=8")
TYPE, COEFFICIENT = f"{KEY}.moe_router_load_balancing_type", f"{KEY}.moe_aux_loss_coeff"


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{TYPE}=aux_loss", f"{COEFFICIENT}=1e-3"],
        [f"{TYPE}=global_aux_loss", f"{COEFFICIENT}=1"],
        [f"{TYPE}=[aux_loss,global_aux_loss]", f"{COEFFICIENT}=[1e-3,1e-2]", f"{KEY}.moe_z_loss_coeff=1e-3"],
        [f"{TYPE}=none", f"{COEFFICIENT}=0", f"{KEY}.moe_z_loss_coeff=null"],
        [f"{KEY}.moe_router_dtype=fp64", f"{KEY}.moe_expert_capacity_factor=null"],
        [f"{KEY}.moe_token_dispatcher_type=alltoall", f"{KEY}.moe_router_force_load_balancing=false"],
        [*NODE8, "parallel.expert=2", f"{KEY}.moe_token_dispatcher_type=flex", f"{KEY}.moe_permute_fusion=true"],
    ],
)
def test_what_keeps_the_promises_is_fine(problems: Problems, overrides: list[str]) -> None:
    assert problems(*MOE, *overrides) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            [f"{TYPE}=seq_aux_loss", f"{COEFFICIENT}=1e-3"],
            f"{TYPE}=seq_aux_loss: Megatron takes a packed micro-batch for one sequence; use aux_loss or global",
        ),
        ([f"{TYPE}=sinkhorn"], f"{TYPE}=sinkhorn: the choice would depend on all tokens of a micro-batch"),
        ([f"{TYPE}=null"], f"{TYPE}=null: must be none, aux_loss or global_aux_loss"),
        ([f"{TYPE}=aux"], f"{TYPE}=aux: must be none, aux_loss or global_aux_loss"),
        ([f"{TYPE}=aux_loss"], f"{TYPE}=aux_loss does nothing without moe_aux_loss_coeff; give one such as 1e-3"),
        (
            [f"{COEFFICIENT}=1e-3"],
            f"{COEFFICIENT}=0.001 is never read with moe_router_load_balancing_type=none; set that to aux_loss or",
        ),
        ([f"{TYPE}=aux_loss", f"{COEFFICIENT}=-1"], f"{COEFFICIENT}=-1: must be a finite number of at least 0"),
        ([f"{TYPE}=aux_loss", f"{COEFFICIENT}=much"], f"{COEFFICIENT}=much: must be a finite number of at least 0"),
        (
            [f"{TYPE}=[aux_loss,global_aux_loss]", f"{COEFFICIENT}=1e-3"],
            f"{TYPE}=[aux_loss,global_aux_loss] with moe_aux_loss_coeff=0.001: give a list of different types and a",
        ),
        (
            [f"{TYPE}=[aux_loss,aux_loss]", f"{COEFFICIENT}=[1,2]"],
            f"{TYPE}=[aux_loss,aux_loss] with moe_aux_loss_coeff=[1,2]: give a list of different types and a list",
        ),
        ([f"{KEY}.moe_z_loss_coeff=-1e-3"], f"{KEY}.moe_z_loss_coeff=-0.001: must be a finite number of at least 0"),
        ([f"{KEY}.moe_z_loss_coeff=inf"], f"{KEY}.moe_z_loss_coeff=inf: must be a finite number of at least 0"),
        ([f"{KEY}.moe_z_loss_coeff=abc"], f"{KEY}.moe_z_loss_coeff=abc: must be a finite number of at least 0"),
        ([f"{KEY}.moe_z_loss_coeff=[1]"], f"{KEY}.moe_z_loss_coeff=[1]: must be a finite number of at least 0"),
        ([f"{TYPE}=aux_loss", f"{COEFFICIENT}=inf"], f"{COEFFICIENT}=inf: must be a finite number of at least 0"),
        ([f"{TYPE}=[]", f"{COEFFICIENT}=[]"], f"{TYPE}=[] with moe_aux_loss_coeff=[]: give a list of different types"),
        ([f"{KEY}.moe_permute_fusion=true"], f"{KEY}.moe_permute_fusion=true needs Transformer Engine"),
        (
            [f"{KEY}.moe_token_dispatcher_type=flex"],
            f"{KEY}.moe_token_dispatcher_type=flex needs cluster.device=cuda",
        ),
        (
            [*NODE8, f"{KEY}.moe_token_dispatcher_type=flex"],
            f"{KEY}.moe_token_dispatcher_type=flex needs parallel.expert x parallel.expert_tensor above 1",
        ),
        (
            [f"{KEY}.moe_layer_recompute=true"],
            f"{KEY}.moe_layer_recompute=true: set trainer.recompute=selective with trainer.megatron.recompute_modules",
        ),
        (["parallel.tensor=3"], "parallel.tensor=3 does not divide the 4 attention heads"),
        (["parallel.tensor=3", "parallel.expert=2"], "parallel.tensor=3 does not divide the 4 attention heads"),
        (
            [f"{KEY}.moe_expert_capacity_factor=1.5"],
            f"{KEY}.moe_expert_capacity_factor=1.5: tokens would be dropped by what else is in their micro-batch",
        ),
        ([f"{KEY}.moe_token_dropping=true"], f"{KEY}.moe_token_dropping=true: Megatron does not support it"),
        ([f"{KEY}.moe_input_jitter_eps=1e-2"], f"{KEY}.moe_input_jitter_eps=0.01: the noise is another one in every"),
        (
            [f"{KEY}.moe_router_force_load_balancing=true"],
            f"{KEY}.moe_router_force_load_balancing=true: random routing, for measuring speed, is not the engine's",
        ),
        (
            [f"{KEY}.moe_router_enable_expert_bias=true"],
            f"{KEY}.moe_router_enable_expert_bias=true: neither engines nor exported models have such a bias",
        ),
        (
            [f"{KEY}.moe_router_bias_update_rate=1e-3"],
            f"{KEY}.moe_router_bias_update_rate=0.001: is never read without moe_router_enable_expert_bias",
        ),
        (
            [f"{KEY}.moe_enable_routing_replay=true"],
            f"{KEY}.moe_enable_routing_replay=true: set trainer.routing_replay instead",
        ),
        (
            [f"{KEY}.moe_router_dtype=null"],
            f"{KEY}.moe_router_dtype=null: 16 bits choose other experts than the engine",
        ),
        (
            [f"{KEY}.moe_token_dispatcher_type=allgather"],
            f"{KEY}.moe_token_dispatcher_type=allgather: micro-batches differ in size from rank to rank",
        ),
        (
            [f"{KEY}.moe_router_score_function=sigmoid"],
            f"{KEY}.moe_router_score_function: is set by the model's Hugging Face config (model.path) and cannot be",
        ),
        (
            [f"{KEY}.moe_router_pre_softmax=true"],
            f"{KEY}.moe_router_pre_softmax: is set by the model's Hugging Face config (model.path) and cannot be given",
        ),
    ],
)
def test_what_would_be_silently_wrong_is_one_line(problems: Problems, overrides: list[str], line: str) -> None:
    found = problems(*MOE, *overrides)
    assert len(found) == 1, found
    assert found[0].startswith(line)
    assert "\n" not in found[0]


def test_a_dense_model_has_no_experts_to_balance(problems: Problems) -> None:
    (line,) = problems(f"{TYPE}=aux_loss", f"{COEFFICIENT}=1e-3")
    assert line == f"{TYPE}: four_heads has no experts; leave it out"
    (line,) = problems(f"{KEY}.moe_z_loss_coeff=abc")
    assert line == f"{KEY}.moe_z_loss_coeff: four_heads has no experts; leave it out"


def test_of_a_critic_only_what_is_its_own_is_said_again(problems: Problems) -> None:
    (both,) = problems(*MOE, "algo=ppo", f"{KEY}.moe_token_dropping=true")
    assert both.startswith(f"{KEY}.moe_token_dropping=true")
    (own,) = problems(*MOE, "algo=ppo", "critic.trainer.megatron.moe_token_dropping=true")
    assert own.startswith("critic.trainer.megatron.moe_token_dropping=true")


def test_a_dense_critic_has_no_experts_to_balance_either(problems: Problems) -> None:
    (own,) = problems("algo=ppo", "critic.trainer.megatron.moe_z_loss_coeff=1e-3")
    assert own == "critic.trainer.megatron.moe_z_loss_coeff: four_heads has no experts; leave it out"
    (both,) = problems("algo=ppo", f"{KEY}.moe_z_loss_coeff=1e-3")
    assert both == f"{KEY}.moe_z_loss_coeff: four_heads has no experts; leave it out"


def dense_critic(folder: Path) -> tuple[str, ...]:
    """A dense critic for the policy of `MOE`."""
    architecture = compose(overrides=["model=tiny_qwen3"]).model.create.architecture
    (folder / "config.json").write_text(json.dumps({"vocab_size": 20, **architecture}))
    return "algo=ppo", "critic.model.name=dense", f"critic.model.path={folder}", "critic.model.create=null"


def test_each_model_is_judged_by_its_own_experts(problems: Problems, tmp_path: Path) -> None:
    critic = dense_critic(tmp_path)
    followed = (f"{TYPE}=aux_loss", f"{COEFFICIENT}=1e-3")
    assert problems(*MOE, *critic, *followed) == []  # the policy's options, which a dense critic never reads
    selective = ("trainer.recompute=selective", f"{KEY}.recompute_modules")
    assert problems(*MOE, *critic, selective[0], f"{selective[1]}=[moe,layernorm]") == []
    (line,) = problems(*MOE, *critic, selective[0], f"{selective[1]}=[moe_act]")
    assert line.startswith("critic.trainer.megatron.recompute_modules=[moe_act]: dense has no moe_act to compute again")
    (line,) = problems(*MOE, *critic, *followed, "critic.trainer.megatron.moe_z_loss_coeff=1e-3")
    assert line == "critic.trainer.megatron.moe_z_loss_coeff: dense has no experts; leave it out"


def test_a_dense_critic_stands_in_the_layout_of_a_policy_with_experts(problems: Problems, tmp_path: Path) -> None:
    critic = dense_critic(tmp_path)
    assert problems(*MOE, *critic, "parallel.data=2", "parallel.expert=2", "parallel.expert_tensor=1") == []
    (line,) = problems(*MOE, *critic, "parallel.tensor=2", "parallel.sequence=true", "parallel.expert=4")
    assert line.startswith("parallel.expert=4 x parallel.expert_tensor=1 does not divide the 2 trainer ranks")


def test_a_supervised_stage_before_the_run_is_held_to_it_too(problems: Problems, tmp_path: Path) -> None:
    stage = tmp_path / "stage.yaml"
    stage.write_text(
        "defaults: [arithmetic_sft, _self_]\ntrainer: {megatron: {moe_token_dropping: true}, threads: 1}\n"
    )
    (line,) = problems(*MOE, f"warm_start.recipe={stage}")
    assert line.startswith(f"warm_start.recipe={stage}: trainer.megatron.moe_token_dropping=true: Megatron does not")

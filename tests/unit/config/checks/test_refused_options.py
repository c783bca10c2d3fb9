"""Options of Megatron that get around a check, raise in the middle of a run or do nothing are one line each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlscale.config.checks.megatron import _ON_HOST, _TRANSFORMER_ENGINE
from rlscale.config.checks.refused_options import DDP, OPTIMIZER, TRANSFORMER, Refused, as_typed
from rlscale.config.derived.derived_options import DERIVED
from rlscale.config.passthrough import known_options
from tests.unit.config.mixture import MOE

Problems = Callable[..., list[str]]

KEY, DDP_KEY, OPTIM_KEY = "trainer.megatron", "trainer.ddp", "optim.megatron"
GPUS = ("cluster=node8", "rollout.engines=8", "model.dtype=bfloat16")
HALF = "model.dtype=float16"
REMAINDERS = ("store_param_remainders=false",)
SHARDED = "trainer.distributed_optimizer=true"
TABLES = [("transformer", KEY, TRANSFORMER), ("ddp", DDP_KEY, DDP), ("optimizer", OPTIM_KEY, OPTIMIZER)]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([f"{OPTIM_KEY}.optimizer_cpu_offload=true"], f"{OPTIM_KEY}.optimizer_cpu_offload: is set by optim.on_host"),
        ([f"{OPTIM_KEY}.pin_cpu_grads=false"], f"{OPTIM_KEY}.pin_cpu_grads=false is read only with optim.on_host=true"),
        (
            [f"{OPTIM_KEY}.overlap_param_gather=true"],
            f"{OPTIM_KEY}.overlap_param_gather: is set by trainer.ddp.overlap_param_gather and cannot be",
        ),
        (
            [f"{OPTIM_KEY}.initial_loss_scale=1024"],
            f"{OPTIM_KEY}.initial_loss_scale=1024 is read only with model.dtype=float16; leave it out",
        ),
        (
            [HALF, f"{OPTIM_KEY}.loss_scale=1024", f"{OPTIM_KEY}.loss_scale_window=10"],
            f"{OPTIM_KEY}.loss_scale_window: {OPTIM_KEY}.loss_scale fixes the factor of the loss",
        ),
        (
            [HALF, f"{OPTIM_KEY}.initial_loss_scale=2", f"{OPTIM_KEY}.min_loss_scale=4"],
            f"{OPTIM_KEY}.min_loss_scale=4 is above initial_loss_scale=2; use less",
        ),
        ([f"{OPTIM_KEY}.decoupled_lr=1e-4"], f"{OPTIM_KEY}.decoupled_lr=0.0001: use optim.groups with lr_mult instead"),
        ([f"{OPTIM_KEY}.muon_momentum=0.9"], f"{OPTIM_KEY}.muon_momentum=0.9: the optimizer is Adam; leave it out"),
        ([f"{OPTIM_KEY}.exp_avg_dtype=bfloat16"], f"{OPTIM_KEY}.exp_avg_dtype=bfloat16: Megatron takes one of torch's"),
        (
            [f"{OPTIM_KEY}.use_precision_aware_optimizer=true", SHARDED],
            f"{OPTIM_KEY}.use_precision_aware_optimizer=true needs Transformer Engine, which does not run on the CPU",
        ),
        (
            [*GPUS, f"{OPTIM_KEY}.use_precision_aware_optimizer=true"],
            f"{OPTIM_KEY}.use_precision_aware_optimizer=true needs trainer.distributed_optimizer=true",
        ),
        (
            [f"{OPTIM_KEY}.store_param_remainders=false"],
            f"{OPTIM_KEY}.store_param_remainders is read only with {OPTIM_KEY}.use_precision_aware_optimizer=true",
        ),
        (
            [f"{DDP_KEY}.check_for_nan_in_grad=true"],
            f"{DDP_KEY}.check_for_nan_in_grad=true: Megatron would raise where a step is skipped and counted "
            "(trainer.max_skipped_steps); leave it out",
        ),
        ([f"{DDP_KEY}.use_megatron_fsdp=true"], f"{DDP_KEY}.use_megatron_fsdp=true: Megatron's FSDP is not supported;"),
        (
            [f"{DDP_KEY}.num_distributed_optimizer_instances=2", SHARDED],
            f"{DDP_KEY}.num_distributed_optimizer_instances=2: the process groups for it are not made; leave it out",
        ),
        (
            [f"{DDP_KEY}.grad_reduce_in_fp32=false"],
            f"{DDP_KEY}.grad_reduce_in_fp32=false: gradients would be summed over micro-batches and ranks in 16 bits",
        ),
        (
            [f"{DDP_KEY}.bucket_size=1000"],
            f"{DDP_KEY}.bucket_size=1000 is read only with {DDP_KEY}.overlap_grad_reduce=true; set that, or leave it",
        ),
        (
            [f"{DDP_KEY}.pad_buckets_for_high_nccl_busbw=true"],
            f"{DDP_KEY}.pad_buckets_for_high_nccl_busbw=true is read only with {SHARDED}; set that, or leave it out",
        ),
        (
            ["parallel.pipeline=2", "parallel.virtual_pipeline=2", f"{KEY}.microbatch_group_size_per_vp_stage=4"],
            f"{KEY}.microbatch_group_size_per_vp_stage: is set by parallel.pipeline and cannot be given here too",
        ),
        ([f"{KEY}.overlap_p2p_comm=true"], f"{KEY}.overlap_p2p_comm: is set by parallel.virtual_pipeline and cannot"),
        (
            [f"{KEY}.fp8=hybrid"],
            f"{KEY}.fp8=hybrid: for training in 8 bits set trainer.fp8; other recipes, and 4 bits, are",
        ),
        ([f"{KEY}.enable_autocast=true"], f"{KEY}.enable_autocast=true: model.dtype says which type is computed in"),
        ([f"{KEY}.recompute_method=block"], f"{KEY}.recompute_method=block is read only with trainer.recompute=full;"),
        ([f"{KEY}.cpu_offloading_weights=true"], f"{KEY}.cpu_offloading_weights is read only with cpu_offloading=true"),
        (
            [*GPUS, "model.dtype=float32", f"{KEY}.use_te_activation_func=true"],
            f"{KEY}.use_te_activation_func=true needs Transformer Engine, which trains models in 16 bits on GPUs",
        ),
        (
            [f"{KEY}.gradient_accumulation_fusion=true"],
            f"{KEY}.gradient_accumulation_fusion=true needs CUDA kernels, which a CPU does not have; leave it out",
        ),
        ([f"{KEY}.cp_comm_type=p2p"], f"{KEY}.cp_comm_type=p2p is read only with parallel.context above 1; leave it"),
        (["parallel.context=2", f"{KEY}.cp_comm_type=p2p"], f"{KEY}.cp_comm_type=p2p needs Transformer Engine, which"),
        (
            [*GPUS, "parallel.context=2", f"{KEY}.cp_comm_type=a2a+p2p"],
            f"{KEY}.cp_comm_type=a2a+p2p: must be one of p2p, all_gather, a2a",
        ),
        (
            [*MOE, f"{KEY}.moe_pad_expert_input_to_capacity=true"],
            f"{KEY}.moe_pad_expert_input_to_capacity=true: it needs moe_expert_capacity_factor, which is refused;",
        ),
        (
            [*MOE, f"{KEY}.moe_deepep_num_sms=24"],
            f"{KEY}.moe_deepep_num_sms is read only with moe_token_dispatcher_type=flex; set that, or leave it out",
        ),
        ([*MOE, f"{KEY}.moe_grouped_gemm=false"], f"{KEY}.moe_grouped_gemm: is set by rlscale itself and cannot be"),
        (["algo=ppo", f"{DDP_KEY}.nccl_ub=true"], f"{DDP_KEY}.nccl_ub=true: what NCCL has registered could not be"),
        (["algo=ppo", f"critic.{DDP_KEY}.nccl_ub=true"], f"critic.{DDP_KEY}.nccl_ub=true: what NCCL has registered"),
    ],
)
def test_what_gets_around_a_check_or_does_nothing_is_one_line(
    problems: Problems, overrides: list[str], line: str
) -> None:
    found = problems(*overrides)
    assert len(found) == 1, found
    assert found[0].startswith(line)
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{DDP_KEY}.overlap_grad_reduce=true", f"{DDP_KEY}.bucket_size=1000"],
        [f"{DDP_KEY}.pad_buckets_for_high_nccl_busbw=true", SHARDED, f"{DDP_KEY}.check_for_large_grads=true"],
        ["trainer.recompute=full", f"{KEY}.recompute_method=block", f"{KEY}.recompute_num_layers=2"],
        [f"{KEY}.distribute_saved_activations=false", f"{KEY}.cpu_offloading=false", f"{KEY}.apply_rope_fusion=false"],
        [*GPUS, f"{KEY}.cpu_offloading=true", f"{KEY}.cpu_offloading_num_layers=1", f"{KEY}.apply_rope_fusion=true"],
        [*GPUS, "parallel.context=2", f"{KEY}.cp_comm_type=all_gather", f"{KEY}.gradient_accumulation_fusion=true"],
        [*GPUS, SHARDED, "optim.on_host=true", f"{OPTIM_KEY}.optimizer_offload_fraction=0.5"],
        [*GPUS, SHARDED, *(f"{OPTIM_KEY}.{one}" for one in ("use_precision_aware_optimizer=true", *REMAINDERS))],
        [f"{OPTIM_KEY}.decoupled_weight_decay=false", f"{OPTIM_KEY}.apply_wd_to_qk_layernorm=true"],
    ],
)
def test_what_is_read_and_keeps_the_promises_is_fine(problems: Problems, overrides: list[str]) -> None:
    assert problems(*overrides) == []


def _other(fine: tuple[object, ...]) -> object:
    """A value that is none of those that are fine."""
    return next(value for value in (True, 7) if not any(type(value) is type(one) and value == one for one in fine))


@pytest.mark.parametrize(("kind", "key", "table"), TABLES)
def test_every_refused_option_is_there_and_is_a_line_of_its_own(
    problems: Problems, kind: str, key: str, table: Refused
) -> None:
    known = known_options(kind)
    assert known is not None
    assert set(table) <= set(known), "an option that the installed Megatron has no more"
    assert not set(table) & set(DERIVED[kind])
    values = {name: as_typed(_other(fine) if fine else 7) for name, (fine, _) in table.items()}
    expected = {f"{key}.{name}={value}: {table[name][1]}" for name, value in values.items()}
    found = problems(*(f"{key}.{name}={value}" for name, value in values.items()))
    assert expected == set(found)
    assert len(found) == len(table)


@pytest.mark.parametrize(("kind", "key", "table"), TABLES)
def test_the_values_that_are_as_without_the_option_are_fine(
    problems: Problems, kind: str, key: str, table: Refused
) -> None:
    given = [f"{key}.{name}={as_typed(fine[-1])}" for name, (fine, _) in table.items() if fine]
    assert given
    assert problems(*given) == []


def test_options_that_need_something_are_those_of_the_installed_megatron() -> None:
    assert set(_TRANSFORMER_ENGINE) <= set(known_options("transformer") or {})
    assert set(_ON_HOST) <= set(known_options("optimizer") or {})


@pytest.mark.parametrize("kind", ["transformer", "ddp", "optimizer"])
def test_every_derived_option_is_one_of_the_installed_megatron(kind: str) -> None:
    assert set(DERIVED[kind]) <= set(known_options(kind) or {})

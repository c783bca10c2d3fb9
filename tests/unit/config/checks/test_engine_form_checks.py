"""Forms in which engines cannot hold a model are refused by name before anything starts."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError

MODEL = "model.create.architecture"
QAT = ("rollout.weights=int4", "trainer.fake_quant=true")
GPUS = ("cluster=node8", "rollout.engines=8", f"{MODEL}.num_key_value_heads=4")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["rollout.weights=fp8_block"],
            "rollout.weights=fp8_block: k_proj has 64 rows on each rank of an engine, which 128 does not divide "
            "(and 1 more); choose another form, or as_trained",
        ),
        (["rollout.weights=int4", "rollout.int4_group=256"], "q_proj has 128 columns on each rank of an engine"),
        (["rollout.weights=int4", "rollout.int4_group=12"], "rollout.int4_group=12: must be a multiple of 8"),
        (["rollout.quantised_activations=true"], "is read with rollout.weights=fp8_block, fp8_tensor or mxfp8 only"),
        (
            ["rollout.weights=int4", "rollout.quantised_activations=true"],
            "(int4 is W4A16: its activations stay as they",
        ),
        (
            ["rollout.weights=mxfp8", "rollout.quantised_activations=true"],
            "rollout.quantised_activations=true needs weights.canary_bound: the trainer does not quantise",
        ),
        (
            [*GPUS, "rollout.weights=fp8_block", "rollout.quantised_activations=true"],
            "on GPUs SGLang's kernels quantise activations by themselves; leave it out",
        ),
        (["rollout.int4_group=64"], "rollout.int4_group=64 is read with rollout.weights=int4 only"),
        (["rollout.int4_grid=full"], "rollout.int4_grid=full is read with rollout.weights=int4 only"),
        (
            ["rollout.weights=int4", "rollout.engine_urls=[http://127.0.0.1:1]"],
            "rollout.weights=int4 does not reach the engines of rollout.engine_urls",
        ),
        (["rollout.weights=int4", "+rollout.sglang.quantization=fp8"], "are both given; leave out the first"),
        (
            ["rollout.weights=int4", "rollout.engine_groups.large.sglang.quantization=fp8"],
            "rollout.engine_groups.large.sglang.quantization and rollout.weights=int4 are both given",
        ),
        (["rollout.weights=mxfp8", "cluster.placement=disaggregated"], "on the CPU, carries no FP8; use int4, or"),
        (["trainer.fake_quant=true"], "trainer.fake_quant=true: rollout.weights=as_trained rounds nothing; choose the"),
        (
            [*QAT, "trainer.distributed_optimizer=true", "trainer.ddp.overlap_param_gather=true"],
            "trainer.ddp.overlap_param_gather=true brings weights while they are rounded; set it to false",
        ),
        ([*QAT, "algo=ppo", "critic.trainer.fake_quant=false"], "critic.trainer.fake_quant is never read: no engine"),
        ([*GPUS, "rollout.weights=fp8_tensor"], "rollout.weights=fp8_tensor is served on the CPU only"),
        ([*GPUS, "rollout.weights=mxfp8"], "rollout.weights=mxfp8 is served on the CPU only: on GPUs SGLang lays"),
        ([*GPUS, "rollout.weights=int4"], "rollout.weights=int4: SGLang's kernels of it take 16 bits; set model.dtype"),
        ([*GPUS, "rollout.weights=int4", "rollout.int4_group=16"], "on GPUs SGLang's kernels take 32, 64 or 128"),
        ([*GPUS, "rollout.weights=fp8_block"], "rollout.weights=fp8_block needs weights.canary_bound on GPUs"),
    ],
)
def test_a_form_that_cannot_be_served_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(compose("arithmetic", ["warm_start=null", *overrides]))
    assert line in str(refused.value)


@pytest.mark.parametrize("transport", ["disk", "shared_memory"])
def test_engines_of_their_own_take_fp8_where_gloo_does_not_carry_it(transport: str) -> None:
    given = ["rollout.weights=mxfp8", "cluster.placement=disaggregated", f"weights/transport={transport}"]
    check(compose("arithmetic", ["warm_start=null", *given]))


@pytest.mark.parametrize("form", ["fp8_tensor", "int4", "mxfp8"])
def test_the_tiny_model_is_served_in_the_other_forms(form: str) -> None:
    check(compose("arithmetic", ["warm_start=null", f"rollout.weights={form}"]))


def test_int4_is_served_on_gpus_in_16_bits() -> None:
    check(compose("arithmetic", ["warm_start=null", *GPUS, "rollout.weights=int4", "model.dtype=bfloat16"]))


def test_activations_are_quantised_where_the_canary_knows() -> None:
    given = ["rollout.weights=mxfp8", "rollout.quantised_activations=true", "weights.canary_bound=1.0"]
    check(compose("arithmetic", ["warm_start=null", *given]))

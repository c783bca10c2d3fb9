"""Derived sizes, by hand."""

from __future__ import annotations

from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes


def test_batch_sizes_follow_from_groups(plain_recipe: str) -> None:
    sizes = Sizes.of(
        compose(
            plain_recipe,
            [
                "rollout.groups_per_iteration=12",
                "rollout.samples_per_group=4",
                "algo.steps_per_iteration=3",
                "algo.epochs_per_iteration=2",
                "run.iterations=5",
            ],
        )
    )
    assert (sizes.samples_per_iteration, sizes.groups_per_step, sizes.samples_per_step) == (48, 4, 16)
    assert (sizes.steps_per_iteration, sizes.total_steps) == (6, 30)
    assert sizes.max_tokens_per_iteration == 48 * (1024 + 1024)


def test_one_rank_and_one_engine_by_default_on_the_cpu(plain_recipe: str) -> None:
    sizes = Sizes.of(compose(plain_recipe))
    assert (sizes.trainer_ranks, sizes.data_parallel, sizes.engines, sizes.engine_gpus) == (1, 1, 1, 0)


def test_data_parallel_fills_the_gpus_of_the_trainer(plain_recipe: str) -> None:
    colocated = Sizes.of(compose(plain_recipe, ["cluster=node8", "parallel.tensor=2"]))
    assert (colocated.trainer_devices, colocated.engine_devices, colocated.data_parallel) == (8, 8, 4)
    apart = [
        "cluster=multinode_disaggregated",
        "parallel=moe_multinode",
        "rollout.engines=4",
        "rollout.gpus_per_engine=4",
    ]
    sizes = Sizes.of(compose(plain_recipe, apart))
    assert (sizes.trainer_devices, sizes.engine_devices) == (16, 16)
    assert (sizes.model_ranks, sizes.data_parallel, sizes.trainer_ranks, sizes.engine_gpus) == (8, 2, 16, 16)


def test_supervised_training_without_evaluation_has_no_engine() -> None:
    assert Sizes.of(compose("arithmetic_sft")).engines == 0


def test_models_besides_the_policy_are_named(plain_recipe: str) -> None:
    assert Sizes.of(compose(plain_recipe)).models == ("policy",)
    sizes = Sizes.of(compose(plain_recipe, ["algo=ppo", "algo.distil_coef=1"]))
    assert sizes.models == ("policy", "critic", "reference", "teacher")
    assert sizes.lines()[1].endswith("models policy, critic, reference, teacher")


def test_lines_name_groups_and_samples(plain_recipe: str) -> None:
    lines = Sizes.of(compose(plain_recipe, ["rollout.groups_per_iteration=8", "rollout.samples_per_group=3"])).lines()
    assert lines[0].startswith("batch: 8 groups = 24 samples per iteration")

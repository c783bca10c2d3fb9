"""The critic: a second model beside the policy, in every layout, saved, exported, and taking turns with the policy."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import driven
import numpy as np
import optimizer_scenarios
import pytest
import torch
from rank_pool import RankFailed, RankPool
from safetensors.torch import load_file
from test_algorithms import assert_same
from tiny_models import make_model
from training_data import collect

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig, Schedule
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.data.batches.batch import Batch
from rlscale.trainer.trainer_spec import TrainerSpec

PPO = driven.shipped("ppo")
LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("dense", {"tensor": 2}),
    ("dense", {"tensor": 2, "sequence": True}),
    ("dense", {"context": 2}),
    ("tied", {"pipeline": 2}),
    ("deep", {"pipeline": 2, "virtual_pipeline": 2}),
    ("moe", {"expert": 2, "data": 2}),
    ("moe", {"tensor": 2, "sequence": True, "expert": 2}),
]
"""Data parallelism alone is in test_algorithms."""


def hf_values(folder: Path, batch: Batch) -> np.ndarray:
    """The value of every token by transformers, read one position before it; 0 for the first of each row."""
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.num_labels == 1
    column = np.zeros(batch.tokens_total, np.float32)
    for row in range(batch.rows):
        tokens = torch.from_numpy(batch.row("tokens", row).astype(np.int64))
        with torch.no_grad():
            values = model(tokens[None]).logits[0, :-1, 0]
        column[batch.offsets[row] + 1 : batch.offsets[row + 1]] = values.numpy()
    return column


@pytest.fixture(scope="module")
def one_rank(pool: RankPool, models: dict[str, Path]) -> Any:
    """Results of one rank by kind of model, computed once each."""
    known: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in known:
            batches = [driven.segmented(PPO, seed) for seed in range(2)]
            known[kind] = pool.run(driven.train, driven.spec_of(PPO, models, kind), batches, world_size=1)[0]
        return known[kind]

    return get


@pytest.mark.parametrize(("kind", "parallel"), LAYOUTS)
def test_two_ranks_train_the_critic_as_one_does(
    kind: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], one_rank: Any
) -> None:
    spec = driven.spec_of(PPO, models, kind, parallel=parallel)
    batches = [driven.segmented(PPO, seed) for seed in range(2)]
    expected = one_rank(kind)
    for got in pool.run(driven.train, spec, batches, world_size=2):
        assert_same(got, expected)
    metrics = expected["iterations"][0]["metrics"]
    assert metrics["critic_steps"] == metrics["steps"] == 4.0
    assert metrics["critic_lr"] == pytest.approx(3 * metrics["lr"])
    assert np.abs(expected["gradients"]["critic score.weight"]).max() > 1e-3
    assert np.abs(expected["gradients"]["critic score.bias"]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "parallel"), [("dense", {}), ("tied", {"tensor": 2, "sequence": True}), ("moe", {"pipeline": 2})]
)
def test_values_are_those_of_transformers_whatever_the_temperature(
    kind: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    spec, batch = driven.spec_of(PPO, models, kind, parallel=parallel), driven.segmented(PPO)
    result = pool.run(driven.columns, spec, batch, ["values"], False, world_size=2 if parallel else 1)[0]
    expected = hf_values(models[f"critic_{kind}"], batch)
    np.testing.assert_allclose(result["columns"][0], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.3


def test_critic_of_a_folder_without_a_head_says_zero(pool: RankPool, models: dict[str, Path]) -> None:
    spec, batch = replace(driven.spec_of(PPO, models), critic_path=""), driven.segmented(PPO)
    (result,) = pool.run(driven.columns, spec, batch, ["values"], False, world_size=1)
    np.testing.assert_array_equal(result["columns"][0], 0.0)


def test_critic_alone_comes_closer_to_its_targets_on_a_fixed_batch(pool: RankPool, models: dict[str, Path]) -> None:
    spec = replace(driven.spec_of(PPO, models), critic_path="")
    batches = [driven.segmented(PPO)] * 5
    (result,) = pool.run(driven.train, spec, batches, False, world_size=1)
    errors = [iteration["metrics"]["critic_error"] for iteration in result["iterations"]]
    assert all(after < before for before, after in pairwise(errors))
    assert errors[-1] < 0.5 * errors[0]
    assert "loss" not in result["iterations"][0]["metrics"]
    (fresh,) = pool.run(driven.train, spec, [], world_size=1)
    for name, weight in fresh["weights"].items():
        if name.startswith("policy"):
            np.testing.assert_array_equal(result["weights"][name], weight, err_msg=name)


def warming_up(spec: TrainerSpec) -> TrainerSpec:
    """The spec with a schedule of the critic's own, so that a lost count of its steps is seen."""
    assert spec.critic is not None
    optim = OptimConfig(lr=1e-2, eps=1e-3, warmup_steps=2, schedule=Schedule.cosine)
    return replace(spec, critic=replace(spec.critic, optim=optim))


@pytest.mark.parametrize(
    ("kind", "parallel"), [("dense", {}), ("dense", {"pipeline": 2}), ("moe", {"expert": 2, "data": 2})]
)
def test_resumed_policy_and_critic_give_the_same_bits(
    kind: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    trainer = TrainerConfig(distributed_optimizer="data" in parallel)
    spec = warming_up(driven.spec_of(PPO, models, kind, parallel=parallel, trainer=trainer))
    batches, folder = [driven.segmented(PPO, seed) for seed in range(2)], str(tmp_path / "saved")
    world_size = 2 if parallel else 1
    straight = pool.run(driven.train_and_save_halfway, spec, batches, folder, world_size=world_size)
    resumed = pool.run(driven.resume, spec, batches[1:], folder, world_size=world_size)
    for before, after in zip(straight, resumed, strict=True):
        for name, weight in before["weights"].items():
            np.testing.assert_array_equal(after["weights"][name], weight, err_msg=name)
        for name in ("loss", "critic_loss", "critic_lr", "critic_grad_norm", "grad_norm"):
            assert before["last"]["metrics"][name] == after["last"]["metrics"][name], name


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [
        ("dense", {"data": 2}, {"tensor": 2, "sequence": True}),
        ("deep", {"pipeline": 2, "virtual_pipeline": 2}, {}),
    ],
)
def test_policy_and_critic_are_continued_in_another_layout(
    kind: str,
    written: dict[str, Any],
    read: dict[str, Any],
    pool: RankPool,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    trainer = TrainerConfig(distributed_optimizer="data" in written)
    one, other = (
        warming_up(driven.spec_of(PPO, models, kind, **options))
        for options in ({"parallel": written, "trainer": trainer}, {"parallel": read})
    )
    batches, folder = [driven.segmented(PPO, seed) for seed in range(2)], str(tmp_path / "saved")
    straight = pool.run(driven.train_and_save_halfway, one, batches, folder, world_size=2)[0]
    resumed = pool.run(driven.resume, other, batches[1:], folder, world_size=2 if read else 1)[0]
    assert resumed["weights"].keys() == straight["weights"].keys()
    for name, weight in straight["weights"].items():
        np.testing.assert_allclose(resumed["weights"][name], weight, atol=5e-5, rtol=0, err_msg=name)
    for name in ("loss", "critic_loss", "lr", "critic_lr", "critic_grad_norm", "grad_norm"):
        expected = straight["last"]["metrics"][name]
        assert resumed["last"]["metrics"][name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_checkpoint_with_a_critic_and_a_run_without_one_do_not_fit(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    grpo = driven.shipped("grpo")
    specs = {"without": driven.spec_of(grpo, models), "with": driven.spec_of(PPO, models)}
    for name, spec in specs.items():
        batch = [driven.segmented(spec.algo)]
        pool.run(driven.train_and_save_halfway, spec, batch, str(tmp_path / name), world_size=1)
    with pytest.raises(RankFailed, match=r"UserError: .*/with holds a critic, but this run has none"):
        pool.run(driven.resume, specs["without"], [], str(tmp_path / "with"), world_size=1)
    with pytest.raises(RankFailed, match=r"UserError: .*/without holds no critic, but this run has one"):
        pool.run(driven.resume, specs["with"], [], str(tmp_path / "without"), world_size=1)


@pytest.mark.parametrize(("kind", "parallel"), [("tied", {"tensor": 2}), ("moe", {"expert": 2, "data": 2})])
def test_exported_critic_is_the_model_for_transformers_and_for_another_run(
    kind: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec = driven.spec_of(PPO, models, kind, parallel=parallel)
    # It starts from the policy's folder, whose config says what a policy is.
    spec, batch = replace(spec, critic_path="", critic_init_path=spec.critic_path), driven.segmented(PPO)
    folder, saved = tmp_path / "critic", tmp_path / "saved"
    values = pool.run(driven.train_critic_and_export, spec, batch, str(folder), str(saved), world_size=2)[0]
    np.testing.assert_allclose(values, hf_values(folder, batch), atol=1e-5)
    assert np.abs(values - hf_values(models[f"critic_{kind}"], batch)).max() > 1e-3
    architectures = json.loads((folder / "config.json").read_text())["architectures"]
    assert architectures == [f"Qwen3{'Moe' if kind == 'moe' else ''}ForTokenClassification"]
    again = replace(spec, critic_path=str(folder), critic_init_path="", parallel=driven.make_spec(folder).parallel)
    again = replace(again, data_parallel=1)
    (loaded,) = pool.run(driven.columns, again, batch, ["values"], False, world_size=1)
    np.testing.assert_allclose(loaded["columns"][0], values, atol=1e-5)
    # The command `export` makes the same folder of the checkpoint, here on one rank.
    one = replace(spec, critic_init_path=str(saved / "critic"), parallel=again.parallel, data_parallel=1)
    converted = tmp_path / "converted"
    pool.run(optimizer_scenarios.exported, one, str(converted), True, world_size=1)
    assert (converted / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    ours, theirs = (load_file(path / "model.safetensors") for path in (converted, folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("distributed_optimizer", [False, True])
def test_one_model_at_a_time_has_the_device_and_nothing_is_lost(
    distributed_optimizer: bool, pool: RankPool, models: dict[str, Path]
) -> None:
    trainer = TrainerConfig(distributed_optimizer=distributed_optimizer)
    spec = replace(driven.spec_of(PPO, models, trainer=trainer), teacher_path=str(models["deep"]))
    batches = [driven.segmented(PPO, seed) for seed in range(2)]
    (still,) = pool.run(driven.train, spec, batches, True, False, world_size=1)
    (moved,) = pool.run(driven.train, spec, batches, True, True, world_size=1)
    # After training, asleep, awake again: the critic's steps come first, so the policy is awake at the end.
    assert moved["awake"] == [["policy"], [], ["policy"]] * 2
    assert still["awake"] == [["policy", "teacher", "critic"]] * 6
    for name, weight in still["weights"].items():
        np.testing.assert_array_equal(moved["weights"][name], weight, err_msg=name)


def test_skipped_steps_are_counted_over_calls_until_one_is_made(pool: RankPool, models: dict[str, Path]) -> None:
    (result,) = pool.run(skip, driven.spec_of(PPO, models), world_size=1)
    half, broken, again, whole = result
    # Every second step is broken: the losses are those of the others.
    assert (half["critic_skipped_steps"], half["skipped_steps"], half["skipped_in_a_row"]) == (2, 0, 1)
    assert np.isfinite([half["critic_loss"], half["loss"]]).all()
    assert (broken["critic_skipped_steps"], broken["skipped_in_a_row"], again["skipped_in_a_row"]) == (4, 5, 9)
    assert "critic_loss" not in broken
    assert np.isfinite(broken["loss"])
    assert (whole["critic_skipped_steps"], whole["skipped_in_a_row"]) == (0, 0)


def skip(rank: int, world_size: int, address: str, port: int, spec: TrainerSpec) -> list[dict[str, float]]:
    """Metrics of iterations whose second step has broken weights, whose both have (twice), and of a whole one."""
    from training_data import divide, make_batch

    batch = make_batch(spec.algo)
    step_of, weight = np.repeat(batch.column("step"), batch.lengths), batch.column("value_weight")

    def broken(*steps: int) -> Batch:
        return batch.with_column("value_weight", np.where(np.isin(step_of, steps), np.inf, weight))

    trainer = driven.open_trainer(rank, world_size, address, port, spec)
    try:
        batches = [broken(1), broken(0, 1), broken(0, 1), batch]
        return [trainer.train_shard(divide(b, 1)[0], 0) for b in batches]
    finally:
        trainer.close()


def test_critic_in_sixteen_bits_has_values_and_steps(pool: RankPool, models: dict[str, Path]) -> None:
    batch = driven.segmented(PPO)
    spec = driven.spec_of(PPO, models, dtype=DType.bfloat16, parallel={"tensor": 2, "sequence": True})
    result = pool.run(driven.train, spec, [batch], world_size=2)[0]
    iteration = result["iterations"][0]
    expected = hf_values(models["critic_dense"], batch)
    assert np.abs(iteration["columns"]["values"] - expected).max() < 0.1
    assert iteration["metrics"]["critic_grad_norm"] > 0
    assert iteration["metrics"]["critic_skipped_steps"] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
def test_only_one_model_is_on_the_gpu(models: dict[str, Path], dtype: DType) -> None:
    from training_data import divide, make_batch

    from rlscale.platform.ports import free_port

    spec = driven.spec_of(PPO, models, dtype=dtype, device=Device.cuda)
    spec = replace(spec, teacher_path=str(models["deep"]))
    (part,) = divide(make_batch(PPO), 1)
    trainer = driven.open_trainer(0, 1, "127.0.0.1", free_port("127.0.0.1"), spec)
    try:
        for version in range(2):
            before = trainer.values(part)
            assert trainer._roster.residency.awake == ["critic"]
            trainer.logprobs(part, "teacher")
            assert trainer._roster.residency.awake == []
            trainer.sleep()
            trainer.wake()
            np.testing.assert_array_equal(trainer.values(part), before)
            metrics = trainer.train_shard(part, version)
            assert trainer._roster.residency.awake == ["policy"]
            assert metrics["skipped_in_a_row"] == 0
    finally:
        trainer.close()


def test_schedule_of_the_policy_leaves_the_warm_up_of_the_critic_out(models: dict[str, Path]) -> None:
    spec = driven.spec_of(PPO, models)
    critic = CriticConfig(model=spec.model, optim=spec.optim, trainer=spec.trainer, warmup_iterations=2)
    spec = replace(spec, critic=critic, total_steps=20)
    assert (spec.of_policy().total_steps, spec.of_critic().total_steps) == (12, 20)


@pytest.mark.parametrize(
    "other", [{"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, {"head_dim": 32}], ids=["base", "heads"]
)
def test_a_critic_with_other_rotary_positions_leaves_the_policys_alone(
    other: dict[str, Any], pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    critic = make_model(tmp_path / "critic", "dense", critic=True, seed=1, **other)
    spec = replace(driven.spec_of(PPO, models), critic_path=str(critic))
    (result,) = pool.run(driven.train, spec, [collect(PPO)], world_size=1)
    metrics = result["iterations"][0]["metrics"]
    assert (metrics["ratio_max_first_step"], metrics["ppo_kl_first_step"]) == (1.0, 0.0)
    assert metrics["critic_loss"] > 0

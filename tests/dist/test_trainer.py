"""The trainer against transformers, and what it promises about steps, passes, sleep and export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import driven
import numpy as np
import optimizer_scenarios
import pytest
import scenarios
import torch
from rank_pool import RankFailed, RankPool
from tiny_models import make_model, with_configured_norms
from training_data import collect, divide, make_batch, make_spec

from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import Recompute, TrainerConfig
from rlscale.config.schema.weights_config import WeightsConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.families.weight_files import tensors_of
from rlscale.platform.tensor_sum import TensorSum
from rlscale.weights.transports.recording import RecordingTransport, read_version


def hf_logprobs(folder: Path, batch: Batch, temperature: float) -> np.ndarray:
    """Log-probs of every trainable token by transformers, row by row; 0 for the others."""
    from transformers import AutoModelForCausalLM

    model = with_configured_norms(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    column = np.zeros(batch.tokens_total, np.float32)
    for row in range(batch.rows):
        tokens = torch.from_numpy(batch.row("tokens", row).astype(np.int64))
        with torch.no_grad():
            logits = model(tokens[None]).logits[0, :-1] / temperature
        values = logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        column[batch.offsets[row] + 1 : batch.offsets[row + 1]] = values.numpy()
    return np.where(batch.column("loss_mask"), column, np.float32(0))


LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("dense", {}),
    ("tied", {"tensor": 2}),
    ("moe", {}),
    ("dense", {"context": 2}),
    ("dense", {"pipeline": 2}),
    ("dense", {"data": 2}),
]


@pytest.mark.parametrize(("model", "parallel"), LAYOUTS)
def test_logprobs_are_those_of_transformers(
    model: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make_spec(models[model], parallel=parallel)
    batch = make_batch(spec.algo)
    parts = divide(batch, spec.data_parallel)
    columns = pool.run(scenarios.logprobs, spec, parts, world_size=2 if parallel else 1)
    got = scenarios.whole_column(parts, batch, columns)
    np.testing.assert_allclose(got, hf_logprobs(models[model], batch, spec.temperature), atol=1e-5)


def test_packed_equals_one_row_at_a_time(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"])
    batch = make_batch(spec.algo)
    alone = [RankShard(batch, [[np.array([row]) for row in range(batch.rows)]], np.arange(batch.rows))]
    packed = [RankShard(batch, [[np.arange(batch.rows)]], np.arange(batch.rows))]
    got, expected = (pool.run(scenarios.logprobs, spec, parts, world_size=1)[0] for parts in (packed, alone))
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_vocabulary_that_does_not_divide_is_padded_without_a_trace(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "odd", "dense", vocab_size=61)
    spec = make_spec(folder, parallel={"tensor": 2})
    batch = make_batch(spec.algo, vocabulary=61)
    (column, _) = pool.run(scenarios.logprobs, spec, divide(batch, 1), world_size=2)
    np.testing.assert_allclose(column, hf_logprobs(folder, batch, spec.temperature), atol=1e-5)
    result = pool.run(scenarios.train, spec, [divide(batch, 1)], world_size=2)[0]
    assert result["weights"]["lm_head.weight"].shape == (61, 32)


def test_dummy_microbatches_change_nothing(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["moe"])
    (part,) = divide(make_batch(spec.algo), 1)
    nothing = np.zeros(0, np.int64)
    filled = RankShard(part.batch, [[nothing, *step, nothing] for step in part.steps], part.row_ids)
    plain, with_dummies = (pool.run(scenarios.train, spec, [[p]], world_size=1)[0] for p in (part, filled))
    for name, gradient in plain["gradients"].items():
        np.testing.assert_array_equal(with_dummies["gradients"][name], gradient, err_msg=name)
    assert with_dummies["metrics"][0]["tokens"] == plain["metrics"][0]["tokens"]
    assert with_dummies["metrics"][0]["loss"] == plain["metrics"][0]["loss"]


def test_same_batches_give_the_same_bits(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"], "grpo_kl", parallel={"data": 2})
    iterations = [divide(make_batch(spec.algo, seed=seed), 2) for seed in range(3)]
    first, second = (pool.run(scenarios.train, spec, iterations, world_size=2)[0] for _ in range(2))
    for name, weight in first["weights"].items():
        np.testing.assert_array_equal(second["weights"][name], weight, err_msg=name)


@pytest.mark.parametrize("model", ["dense", "moe"])
def test_a_trainer_that_is_closed_leaves_no_process_group_behind(
    model: str, pool: RankPool, models: dict[str, Path]
) -> None:
    """Each would keep three threads, which look a hundred times a second whether there is something to do."""
    spec = make_spec(models[model])
    counts = []
    for _ in range(3):
        pool.run(scenarios.train, spec, [divide(make_batch(spec.algo), 1)], world_size=1)
        counts += pool.run(scenarios.threads, world_size=1)
    assert counts[2] < counts[0] + 3


def test_recomputed_activations_give_the_same_gradients(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"])
    iterations = [divide(make_batch(spec.algo), 1)]
    plain = pool.run(scenarios.train, spec, iterations, world_size=1)[0]
    for recompute in (Recompute.selective, Recompute.full):
        again = replace(spec, trainer=TrainerConfig(recompute=recompute))
        result = pool.run(scenarios.train, again, iterations, world_size=1)[0]
        for name, gradient in plain["gradients"].items():
            np.testing.assert_allclose(result["gradients"][name], gradient, atol=1e-7, err_msg=name)


def test_first_step_with_the_old_pass_has_ratio_one_and_no_kl(pool: RankPool, models: dict[str, Path]) -> None:
    (metrics,) = pool.run(scenarios.passes, make_spec(models["dense"]), world_size=1)
    assert metrics["forced"]["ratio_max"] == 1.0
    assert abs(metrics["forced"]["ppo_kl"]) <= 1e-8
    assert metrics["forced"]["loss"] == metrics["skipped"]["loss"]
    assert metrics["forced"]["grad_norm"] == metrics["skipped"]["grad_norm"]


def test_reference_stays_while_the_policy_moves(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"], "grpo_kl")
    (result,) = pool.run(scenarios.reference, spec, world_size=1)
    np.testing.assert_array_equal(result["reference_after"], result["policy_before"])
    assert np.abs(result["policy_after"] - result["policy_before"]).max() > 1e-3


def test_step_with_gradients_that_are_not_finite_is_skipped_and_counted(
    pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make_spec(models["dense"], optim=OptimConfig(lr=1e-2))
    (part,) = divide(make_batch(spec.algo), 1)
    weight = part.batch.column("loss_weight").copy()
    weight[np.flatnonzero(part.batch.column("loss_mask"))[0]] = np.inf
    broken = replace(part, batch=part.batch.with_column("loss_weight", weight))
    (result,) = pool.run(scenarios.train, spec, [[broken]], world_size=1)
    (fresh,) = pool.run(scenarios.train, spec, [], world_size=1)
    assert result["metrics"][0]["skipped_steps"] == 1.0
    for name, value in fresh["weights"].items():
        np.testing.assert_array_equal(result["weights"][name], value, err_msg=name)


def test_a_loss_that_is_no_number_on_one_rank_skips_the_step_on_all(pool: RankPool, models: dict[str, Path]) -> None:
    """A clamp gives what is no number a gradient of 0: without more, the rest would be trained on."""
    spec = make_spec(models["dense"], optim=OptimConfig(lr=1e-2), parallel={"data": 2})
    parts = divide(make_batch(spec.algo), 2)
    old = parts[1].batch.column("rollout_logprobs").copy()
    old[np.flatnonzero(parts[1].batch.column("loss_mask"))[0]] = np.nan
    parts[0] = replace(
        parts[0], batch=parts[0].batch.with_column("old_logprobs", parts[0].batch.column("rollout_logprobs"))
    )
    parts[1] = replace(parts[1], batch=parts[1].batch.with_column("old_logprobs", old))
    fresh = pool.run(scenarios.train, spec, [], world_size=2)[0]
    for result in pool.run(scenarios.train, spec, [parts], world_size=2):
        (metrics,) = result["metrics"]
        assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1.0, 1.0)
        assert "loss" not in metrics
        for name, value in fresh["weights"].items():
            np.testing.assert_array_equal(result["weights"][name], value, err_msg=name)


@pytest.mark.parametrize(
    ("model", "parallel", "broken"),
    [
        ("dense", {"tensor": 2}, 1),
        ("dense", {"pipeline": 2}, 0),
        ("dense", {"pipeline": 2}, 1),
        ("moe", {"expert": 2, "data": 2}, 1),
    ],
)
def test_a_gradient_that_is_no_number_on_one_rank_skips_the_step_on_all(
    model: str, parallel: dict[str, Any], broken: int, pool: RankPool, models: dict[str, Path]
) -> None:
    trainer = TrainerConfig(distributed_optimizer="data" in parallel)
    spec = make_spec(models[model], optim=OptimConfig(lr=1e-2), parallel=parallel, trainer=trainer)
    parts = divide(make_batch(spec.algo), spec.data_parallel)
    results = pool.run(optimizer_scenarios.break_a_gradient, spec, parts, broken, world_size=2)
    assert [result["finite"] for result in results] == [rank != broken for rank in range(2)]
    for result in results:
        skipped, made = result["metrics"]
        assert (skipped["skipped_steps"], skipped["skipped_in_a_row"]) == (1.0, 1.0)
        assert (made["skipped_steps"], made["skipped_in_a_row"]) == (0.0, 0.0)
        before, between, after = result["weights"]
        for name, weight in before.items():
            np.testing.assert_array_equal(between[name], weight, err_msg=name)
            assert np.abs(after[name] - weight).max() > 1e-3, name


@pytest.mark.parametrize(("model", "parallel"), [("tied", {}), ("moe", {"expert": 2, "data": 2})])
def test_export_is_the_model_for_transformers(
    model: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    (models[model] / "tokenizer_config.json").write_text("{}")
    spec = make_spec(models[model], parallel=parallel, optim=OptimConfig(lr=1e-2))
    batch = make_batch(spec.algo)
    parts = divide(batch, spec.data_parallel)
    target = tmp_path / "hf"
    columns = pool.run(scenarios.train_and_export, spec, parts, str(target), world_size=2 if parallel else 1)
    got = scenarios.whole_column(parts, batch, columns)
    np.testing.assert_allclose(got, hf_logprobs(target, batch, spec.temperature), atol=1e-5)
    assert np.abs(got - hf_logprobs(models[model], batch, spec.temperature)).max() > 1e-3
    assert (target / "config.json").read_bytes() == (models[model] / "config.json").read_bytes()
    assert (target / "tokenizer_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("model", "parallel"), [("tied", {"tensor": 2}), ("dense", {"pipeline": 2}), ("moe", {"expert": 2, "data": 2})]
)
def test_engines_are_sent_every_tensor_of_the_folder_bit_by_bit_whatever_the_layout(
    model: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    recording = {"_target_": f"{RecordingTransport.__module__}.RecordingTransport", "folder": str(tmp_path)}
    spec = make_spec(models[model], parallel=parallel, weights=WeightsConfig(recording, bucket_mb=1))
    (metrics, urls), _ = pool.run(driven.send, spec, 7, world_size=2)
    assert urls == ["http://one", "http://two"]
    entries = tensors_of(models[model])
    assert read_version(tmp_path, 7) == {name: TensorSum.of_entry(entry) for name, entry in entries.items()}
    assert metrics["bytes"] == sum(entry.end - entry.start for entry in entries.values())


@pytest.mark.parametrize("distributed_optimizer", [False, True])
def test_offloaded_state_comes_back_bit_for_bit(
    distributed_optimizer: bool, pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make_spec(models["dense"], trainer=TrainerConfig(distributed_optimizer=distributed_optimizer))
    (result,) = pool.run(scenarios.offload, spec, world_size=1)
    assert result["bytes_asleep"] == 0
    for name, weight in result["straight"].items():
        np.testing.assert_array_equal(result["offloaded"][name], weight, err_msg=name)


def test_bad_options_are_refused_with_the_key(pool: RankPool, models: dict[str, Path], tmp_path: Path) -> None:
    wrong = make_spec(models["dense"], trainer=TrainerConfig(megatron={"num_layers": 0, "no_such_option": 1}))
    with pytest.raises(RankFailed, match=r"UserError: .*trainer\.megatron.*no_such_option"):
        pool.run(scenarios.train, wrong, [], world_size=1)
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text('{"model_type": "gpt5"}')
    with pytest.raises(RankFailed, match=r"UserError: .*gpt5 are not supported; supported families: "):
        pool.run(scenarios.train, make_spec(unknown), [], world_size=1)


@pytest.mark.parametrize("model", ["dense", "tied", "moe"])
def test_names_shapes_and_configuration_agree_with_mbridge(model: str, pool: RankPool, models: dict[str, Path]) -> None:
    (differences,) = pool.run(scenarios.mapping_of_mbridge, make_spec(models[model]), world_size=1)
    assert differences == {"weights": [], "config": {}}


def test_ranks_tell_whether_steps_of_the_last_iteration_were_made(pool: RankPool, models: dict[str, Path]) -> None:
    algo = driven.shipped("grpo")
    spec = driven.spec_of(algo, models, parallel={"data": 2})
    told = pool.run(driven.break_off, spec, collect(algo), world_size=2)
    assert told == [[(0, False), (0, False), (4, True), (5, True)]] * 2  # two steps in two epochs

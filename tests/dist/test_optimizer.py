"""Frozen parameters, groups with their own learning rate, moments that begin again, and what a step's speed says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optimizer_scenarios as own
import pytest
import scenarios
from rank_pool import RankFailed, RankPool
from safetensors.numpy import load_file
from training_data import divide, make_batch, make_spec

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig, Schedule
from rlscale.config.schema.trainer_config import Recompute, TrainerConfig
from rlscale.platform.ports import free_port

EMBEDDING, ROUTER = "model.embed_tokens.weight", "model.layers.0.mlp.gate.weight"
FROZEN: list[tuple[str, dict[str, Any], TrainerConfig]] = [
    ("dense", {}, TrainerConfig(frozen=["model.embed_tokens.*"], recompute=Recompute.full)),
    ("tied", {"pipeline": 2}, TrainerConfig(frozen=["model.embed_tokens.*", "model.layers.0.*"])),
    (
        "moe",
        {"data": 2, "expert": 2},
        TrainerConfig(
            frozen=["*.mlp.gate.weight"],
            distributed_optimizer=True,
            ddp={"overlap_grad_reduce": True, "overlap_param_gather": True},
        ),
    ),
]


def is_frozen(name: str, trainer: TrainerConfig) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, pattern) for pattern in trainer.frozen)


@pytest.mark.parametrize(("model", "parallel", "trainer"), FROZEN)
def test_frozen_parameters_keep_their_bits_and_have_no_buffers(
    model: str, parallel: dict[str, Any], trainer: TrainerConfig, pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make_spec(models[model], trainer=trainer, parallel=parallel)
    parts = divide(make_batch(spec.algo), spec.data_parallel)
    results = pool.run(own.train_frozen, spec, parts, world_size=2 if parallel else 1)
    for result in results:
        assert result["with_buffers"] == result["trained"]
        assert result["in_the_optimizer"] <= result["trained"]
    before, after = results[0]["before"], results[0]["after"]
    for name, weight in after.items():
        if is_frozen(name, trainer):
            np.testing.assert_array_equal(weight, before[name], err_msg=name)
        else:
            assert (weight != before[name]).any(), f"{name} was not trained"


def test_what_is_not_frozen_gets_the_gradient_that_it_gets_anyway(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"])
    frozen = replace(spec, trainer=TrainerConfig(frozen=["model.embed_tokens.*", "*.self_attn.*"]))
    parts = divide(make_batch(spec.algo), 1)
    expected, got = (pool.run(own.gradients, each, parts, world_size=1)[0] for each in (spec, frozen))
    assert set(expected) - set(got) == {n for n in expected if is_frozen(n, frozen.trainer)}
    for name, gradient in got.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-6, atol=1e-8, err_msg=name)


def test_what_is_computed_again_behind_frozen_layers_gets_its_gradient(pool: RankPool, models: dict[str, Path]) -> None:
    frozen = ["model.embed_tokens.*", "*.self_attn.*", "*norm.weight"]
    again = {"recompute_granularity": "selective", "recompute_modules": ["moe"]}
    specs = [make_spec(models["moe"], trainer=TrainerConfig(frozen=frozen, megatron=m)) for m in ({}, again)]
    parts = divide(make_batch(specs[0].algo), 1)
    kept, computed = (pool.run(own.gradients, spec, parts, world_size=1)[0] for spec in specs)
    assert np.abs(kept["model.layers.0.mlp.gate.weight"]).max() > 1e-4
    for name, gradient in kept.items():
        np.testing.assert_array_equal(computed[name], gradient, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "parallel", "trainer", "line"),
    [
        ("moe", {}, TrainerConfig(frozen=["*.layers.1.mlp.experts.0.*"]), "some experts of layer 1 .*mlp.experts"),
        ("moe", {"data": 2, "expert": 2}, TrainerConfig(frozen=["*.experts.[01].*"]), "some experts of layer 0"),
        (
            "dense",
            {"pipeline": 2},
            TrainerConfig(frozen=["model.embed_tokens.*", "model.layers.0.*"], distributed_optimizer=True),
            "leaves a pipeline stage without a parameter to train, .*trainer.distributed_optimizer=false",
        ),
    ],
)
def test_what_could_be_trained_but_never_saved_is_refused(
    kind: str, parallel: dict[str, int], trainer: TrainerConfig, line: str, pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make_spec(models[kind], trainer=trainer, parallel=parallel)
    with pytest.raises(RankFailed, match=rf"UserError: trainer\.frozen=.*{line}"):
        pool.run(scenarios.train, spec, [], world_size=2 if parallel else 1)


@pytest.mark.parametrize(
    ("trainer", "line"),
    [
        (TrainerConfig(frozen=["model.embed_token.weight"]), "did you mean model.embed_tokens.weight"),
        (TrainerConfig(frozen=["model.layers.0.self_attn.q_proj.weight"]), r"Megatron keeps .*leaves out .*k_proj"),
        (TrainerConfig(frozen=["*"]), "leaves no parameter to train"),
    ],
)
def test_a_pattern_that_does_not_fit_is_one_line(
    trainer: TrainerConfig, line: str, pool: RankPool, models: dict[str, Path]
) -> None:
    with pytest.raises(RankFailed, match=rf"UserError: trainer\.frozen=.*{line}"):
        pool.run(scenarios.train, make_spec(models["dense"], trainer=trainer), [], world_size=1)


GROUPS: dict[str, Any] = {
    "all": {"pattern": "model.layers.*", "weight_decay": 0.0},
    "router": {"pattern": "*.mlp.gate.weight", "lr_mult": 0.25},
    "embedding": {"pattern": "model.embed_tokens.*", "lr_mult": 2.0, "weight_decay": 0.5},
}


def test_a_run_with_frozen_parameters_can_be_exported(pool: RankPool, models: dict[str, Path], tmp_path: Path) -> None:
    spec = make_spec(models["dense"], trainer=TrainerConfig(frozen=["model.embed_tokens.*"]))
    pool.run(own.exported, spec, str(tmp_path / "hf"), world_size=1)
    before, after = (load_file(folder / "model.safetensors") for folder in (models["dense"], tmp_path / "hf"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        np.testing.assert_array_equal(after[name], weight, err_msg=name)


def test_groups_have_the_learning_rate_and_decay_that_they_are_given(pool: RankPool, models: dict[str, Path]) -> None:
    optim = OptimConfig(lr=1e-2, min_lr=1e-3, schedule=Schedule.linear, warmup_steps=2, groups=GROUPS)
    spec = make_spec(models["moe"], optim=optim, parallel={"data": 2, "expert": 2})
    parts = divide(make_batch(spec.algo), 2)
    for rates in pool.run(own.rates, spec, parts, 4, world_size=2):
        for lr, of in rates:
            assert of[ROUTER] == pytest.approx((lr / 4, 0.01))  # the last group that matches counts, and it alone
            assert of["model.layers.0.self_attn.o_proj.weight"] == pytest.approx((lr, 0.0))
            assert of["model.layers.0.input_layernorm.weight"] == pytest.approx((lr, 0.0))
            assert of[EMBEDDING] == pytest.approx((2 * lr, 0.5))
            assert of["lm_head.weight"] == pytest.approx((lr, 0.01))
            assert of["model.norm.weight"] == pytest.approx((lr, 0.0))
    assert [lr for lr, _ in rates] == pytest.approx([5e-3, 1e-2, 1e-2 - 9e-3 / 15, 1e-2 - 2 * 9e-3 / 15])


def test_a_resumed_run_has_its_groups_again(pool: RankPool, models: dict[str, Path], tmp_path: Path) -> None:
    spec = make_spec(models["dense"], optim=OptimConfig(lr=1e-2, groups=GROUPS | {"router": GROUPS["embedding"]}))
    iterations = [divide(make_batch(spec.algo, seed=seed), 1) for seed in range(4)]
    folder = str(tmp_path / "saved")
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=1)[0]
    resumed = pool.run(scenarios.resume, spec, iterations[2:], folder, world_size=1)[0]
    for name, weight in straight["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], weight, err_msg=name)
    again = replace(spec, optim=replace(spec.optim, reset_on_resume=True))
    begun_anew = pool.run(scenarios.resume, again, iterations[2:], folder, world_size=1)[0]
    assert begun_anew["steps"] == 2  # of the schedule, which goes on
    assert np.abs(begun_anew["weights"][EMBEDDING] - straight["weights"][EMBEDDING]).max() > 1e-3


def test_a_run_with_frozen_layers_can_be_saved_and_resumed(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    model, parallel, trainer = FROZEN[1]  # one stage has nothing to train
    spec = make_spec(models[model], parallel=parallel, trainer=trainer)
    iterations = [divide(make_batch(spec.algo, seed=seed), 1) for seed in range(2)]
    folder = str(tmp_path / "saved")
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=2)[0]
    resumed = pool.run(scenarios.resume, spec, iterations[1:], folder, world_size=2)[0]
    for name, weight in straight["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], weight, err_msg=name)


def test_after_a_reset_adam_steps_as_if_for_the_first_time(pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"], optim=OptimConfig(lr=1e-2, eps=1e-12, weight_decay=0.0, reset_every=2))
    parts = divide(make_batch(spec.algo), 1)
    (moves,) = pool.run(own.moves, spec, parts, 4, world_size=1)
    # Adam's first step moves every weight that has a gradient by the learning rate, whatever the gradient's size.
    assert [bool(move == pytest.approx(1e-2, rel=1e-3)) for move in moves] == [True, False, True, False]


@pytest.mark.parametrize("model", ["dense", "moe"])
def test_flops_by_formula_are_those_that_torch_counts(model: str, pool: RankPool, models: dict[str, Path]) -> None:
    spec = make_spec(models[model])
    parts = divide(make_batch(spec.algo), 1, max_tokens=10**6)
    (counted,) = pool.run(own.count_flops, spec, parts, world_size=1)
    for kind in ("forward", "step"):
        measured, formula = counted[kind]
        assert measured == pytest.approx(formula, rel=1e-6), kind


def test_speed_adds_up_and_is_the_same_on_every_rank(pool: RankPool, models: dict[str, Path]) -> None:
    trainer = TrainerConfig(peak_tflops=0.5)
    spec = make_spec(models["dense"], "grpo_kl", parallel={"data": 2}, trainer=trainer)
    parts = divide(make_batch(spec.algo), 2)
    first, second = (metrics[1] for metrics in pool.run(own.speed, spec, parts, [0.0, 0.0], world_size=2))
    names = ["forward_backward", "waiting", "grad_reduce", "optimizer"]
    parts_of_time = [first[f"seconds_{name}"] for name in names]
    assert all(seconds > 0 for seconds in parts_of_time)
    together = sum(parts_of_time) - first["seconds_waiting"]
    for metrics in (first, second):
        assert 0.5 * metrics["seconds_steps"] <= together <= 1.05 * metrics["train_seconds"]
    assert first["seconds_old_logprobs"] > 0
    assert first["utilisation"] == pytest.approx(first["tflops_per_device"] / 0.5)
    for name in (*(f"seconds_{name}" for name in names), "tflops_per_device", "memory_peak_gb"):
        assert first[name] == second[name]
        assert math.isfinite(first[name])


def test_a_rank_that_is_slower_is_waited_for_and_the_time_is_found_in_the_passes(
    pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make_spec(models["dense"], "grpo_kl", parallel={"data": 2})
    parts = divide(make_batch(spec.algo), 2)
    pause = 0.5  # far above what a loaded machine adds to passes of some milliseconds
    (_, *tries), *_ = pool.run(own.speed, spec, parts, [0.0, *[0.0, pause] * 2], world_size=2)
    # The quieter of two tries: the machine may be busy with something else.
    even, slow = min(zip(tries[::2], tries[1::2], strict=True), key=lambda pair: pair[1]["seconds_steps"])
    slower = pause * slow["microbatches"]
    rise = {name: slow[name] - even[name] for name in even if name.startswith("seconds_")}
    assert rise["seconds_forward_backward"] == pytest.approx(slower, rel=0.25)
    assert rise["seconds_waiting"] == pytest.approx(slower / 2, rel=0.25)  # of the mean rank: one of two waits
    assert abs(rise["seconds_grad_reduce"]) + abs(rise["seconds_optimizer"]) < 0.25 * slower
    together = sum(slow[f"seconds_{name}"] for name in ("forward_backward", "grad_reduce", "optimizer"))
    assert together == pytest.approx(slow["seconds_steps"], rel=0.1)


@pytest.mark.parametrize("distributed_optimizer", [False, True])
def test_gradients_are_scaled_to_the_bound_on_their_norm_where_they_are_above_it(
    distributed_optimizer: bool, pool: RankPool, models: dict[str, Path]
) -> None:
    bound = 0.1
    # With so large an eps Adam's moves depend on the gradients' size, in the first step too.
    optim = OptimConfig(lr=1e-2, eps=1e-3, weight_decay=0.0, clip_grad=bound)
    spec = make_spec(models["dense"], optim=optim, trainer=TrainerConfig(distributed_optimizer=distributed_optimizer))
    batch = make_batch(spec.algo)
    weight = batch.column("loss_weight")
    iterations = [divide(batch.with_column("loss_weight", size * weight), 1) for size in (1.0, 4.0, 0.001)]
    (steps,) = pool.run(own.steps_taken, spec, iterations, world_size=1)
    norms = [math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in step["given"].values())) for step in steps]
    assert [step["metrics"]["grad_norm"] for step in steps] == pytest.approx(norms, rel=1e-5)  # before clipping
    scales = [min(1.0, bound / norm) for norm in norms]
    assert max(scales[:2]) < 0.5
    assert scales[2] == 1.0
    apart = 0.0
    for name in steps[0]["given"]:
        clipped, free = (adam_by_hand(steps, name, optim, of) for of in (scales, [1.0] * 3))
        for step, expected in zip(steps, clipped, strict=True):
            np.testing.assert_allclose(step["after"][name], expected, atol=2e-6, rtol=0, err_msg=name)
        apart = max(apart, float(np.abs(free[0] - clipped[0]).max()))
    assert apart > 1e-3


def adam_by_hand(steps: list[dict[str, Any]], name: str, optim: OptimConfig, scales: list[float]) -> list[np.ndarray]:
    """A parameter after each step of Adam (arXiv 1412.6980, algorithm 1), its gradients scaled, in float64."""
    weight = steps[0]["before"][name].astype(float)
    mean, square, after = np.zeros_like(weight), np.zeros_like(weight), []
    for number, (step, scale) in enumerate(zip(steps, scales, strict=True), 1):
        gradient = scale * step["given"][name].astype(float)
        mean = optim.beta1 * mean + (1 - optim.beta1) * gradient
        square = optim.beta2 * square + (1 - optim.beta2) * gradient**2
        size = np.sqrt(square / (1 - optim.beta2**number)) + optim.eps
        weight = weight - optim.lr * mean / (1 - optim.beta1**number) / size
        after.append(weight)
    return after


@pytest.mark.gpu(needs="transformer_engine")
def test_an_optimizer_in_host_memory_makes_the_same_steps(models: dict[str, Path]) -> None:
    optim = OptimConfig(lr=1e-2, eps=1e-4)
    trainer = TrainerConfig(distributed_optimizer=True)
    spec = make_spec(models["dense"], device=Device.cuda, dtype=DType.bfloat16, optim=optim, trainer=trainer)
    iterations = [divide(make_batch(spec.algo, seed=seed), 1) for seed in range(2)]
    expected, got = (
        scenarios.train(0, 1, "127.0.0.1", free_port("127.0.0.1"), each, iterations)["weights"]
        for each in (spec, replace(spec, optim=replace(optim, on_host=True)))
    )
    for name, weight in expected.items():
        np.testing.assert_allclose(got[name], weight, atol=1e-3, err_msg=name)


@pytest.mark.gpu
def test_a_gpus_times_and_utilisation_are_measured_on_it(models: dict[str, Path]) -> None:
    spec = make_spec(models["dense"], device=Device.cuda, dtype=DType.bfloat16, trainer=TrainerConfig(peak_tflops=1.0))
    result = scenarios.train(0, 1, "127.0.0.1", free_port("127.0.0.1"), spec, [divide(make_batch(spec.algo), 1)])
    metrics = result["metrics"][0]
    assert 0 < metrics["seconds_forward_backward"] + metrics["seconds_optimizer"] <= metrics["train_seconds"]
    assert metrics["utilisation"] == pytest.approx(metrics["tflops_per_device"])


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_for_the_same_batches(models: dict[str, Path]) -> None:
    spec = make_spec(models["moe"], device=Device.cuda, dtype=DType.bfloat16)
    iterations = [divide(make_batch(spec.algo, seed=seed), 1) for seed in range(3)]
    first, second = (scenarios.train(0, 1, "127.0.0.1", free_port("127.0.0.1"), spec, iterations) for _ in range(2))
    for name, weight in first["weights"].items():
        np.testing.assert_array_equal(second["weights"][name], weight, err_msg=name)

"""The driver's part of an iteration, played on the ranks themselves: columns, `prepare`, `split`, `train_shard`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenarios import gathered, open_trainer, whole_column
from training_data import MAX_RESPONSE_TOKENS, collect, divide_for, make_spec

from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import COLUMNS, AlgoNeeds, Moment, Pass
from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.data.batches.batch import Batch
from rlscale.trainer.hook_contract.recording_receiver import RecordingReceiver
from rlscale.trainer.preparation import prepare
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.transports.route import Route


def shipped(name: str, **changes: Any) -> AlgoConfig:
    """An algorithm as conf/ has it, with two steps and two epochs per iteration."""
    steps = {"steps_per_iteration": 2, "epochs_per_iteration": 2}
    return replace(_composed(name), **{**steps, **changes})


@cache
def _composed(name: str) -> AlgoConfig:
    return compose(overrides=[f"algo={name}"]).algo


def spec_of(algo: AlgoConfig, models: dict[str, Path], kind: str = "dense", **options: Any) -> TrainerSpec:
    """A spec for a kind of model, with critic and teacher where the algorithm has them."""
    # A large eps, so that Adam does not blow differences of rounding up where gradients are almost zero.
    optim = OptimConfig(lr=1e-3, eps=1e-3, clip_grad=0.0)
    spec = make_spec(models[kind], **{"algo": algo, "optim": optim, **options})
    if AlgoNeeds.of_algo(algo).critic:
        optim = replace(optim, lr=3e-3)
        critic = CriticConfig(model=replace(spec.model), optim=optim, trainer=replace(spec.trainer))
        spec = replace(spec, critic=critic, critic_path=str(models[f"critic_{kind}"]))
    return replace(spec, teacher_path=str(models["other_dense"]) if AlgoNeeds.of_algo(algo).teacher else None)


def segmented(algo: AlgoConfig, seed: int = 0) -> Batch:
    """A collected batch in which the first sample of every group has two segments."""
    batch = collect(algo, seed=seed)
    rows = np.arange(batch.rows)
    sample = np.cumsum(rows % 4 != 1) - 1
    reward = batch.column("reward")[np.searchsorted(sample, sample)]
    return batch.with_column("sample", sample).with_column("reward", reward)


def column(trainer: Any, one: Pass, spec: TrainerSpec, batch: Batch) -> np.ndarray:
    """The column of a pass over the whole batch by the models of all ranks. Collective."""
    import torch.distributed as dist

    parts, own = divide_for(batch, spec), trainer.data_parallel_rank()
    values = trainer.values(parts[own]) if one.model == "critic" else trainer.logprobs(parts[own], one.model)
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, (own, values))
    by_part = {number: answer for number, answer in answers if answer is not None}
    return whole_column(parts, batch, [by_part[number] for number in range(len(parts))])


def iterate(trainer: Any, spec: TrainerSpec, batch: Batch, version: int, policy: bool = True) -> dict[str, Any]:
    """One iteration on a collected batch: its metrics and the columns that models computed. Collective."""
    passes = AlgoNeeds.of_algo(spec.algo).passes_at(Moment.batch)
    columns = {one.column: column(trainer, one, spec, batch) for one in passes}
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    prepared, metrics = prepare(batch, spec.algo, max_response_tokens=MAX_RESPONSE_TOKENS)
    part = divide_for(prepared, spec)[trainer.data_parallel_rank()]
    return {"columns": columns, "metrics": metrics | trainer.train_shard(part, version, policy=policy)}


def state(trainer: Any, *, gradients: bool = False) -> dict[str, np.ndarray]:
    """Weights or gradients of policy and critic. Collective."""
    names = ["policy", *(["critic"] if trainer._roster.has_critic else [])]
    return {f"{model} {name}": value for model in names for name, value in gathered(trainer, gradients, model).items()}


def train(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    batches: list[Batch],
    policy: bool = True,
    moves: bool | None = None,
) -> dict[str, Any]:
    """An iteration on each batch: metrics and columns of each, gradients after the first, weights after the last."""
    trainer = open_trainer(rank, world_size, address, port, spec, moves)
    try:
        iterations, gradients, awake = [], {}, []
        for version, batch in enumerate(batches):
            iterations.append(iterate(trainer, spec, batch, version, policy))
            awake.append(list(trainer._roster.residency.awake))
            if version == 0 and moves is None:
                gradients = state(trainer, gradients=True)
            trainer.sleep()
            awake.append(list(trainer._roster.residency.awake))
            trainer.wake()
            awake.append(list(trainer._roster.residency.awake))
        return {"iterations": iterations, "gradients": gradients, "weights": state(trainer), "awake": awake}
    finally:
        trainer.close()


def send(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, version: int
) -> tuple[dict[str, float], list[str]]:
    """The weights as a version by the spec's transport, to two engines: what `send_weights` says of it."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.connect_engines(
            Route(timeout_s=30.0), [RecordingReceiver("http://one"), RecordingReceiver("http://two")]
        )
        return trainer.send_weights(version), list(getattr(trainer._transport, "urls", []))
    finally:
        trainer.close()


def train_and_save_halfway(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, batches: list[Batch], folder: str
) -> dict[str, Any]:
    """An iteration on each batch, with a checkpoint after the first half: weights and the last iteration."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        for version, batch in enumerate(batches):
            if version == len(batches) // 2:
                trainer.save(folder)
            last = iterate(trainer, spec, batch, version)
        return {"weights": state(trainer), "last": last}
    finally:
        trainer.close()


def resume(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, batches: list[Batch], folder: str
) -> dict[str, Any]:
    """Load a checkpoint and go on: weights and the last iteration."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.load(folder)
        last: dict[str, Any] = {}
        for number, batch in enumerate(batches):
            last = iterate(trainer, spec, batch, len(batches) + number)
        return {"weights": state(trainer), "last": last}
    finally:
        trainer.close()


def columns(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, batch: Batch, names: list[str], moves: bool
) -> dict[str, Any]:
    """Columns one after the other, then the policy's weights and the models that are awake."""
    trainer = open_trainer(rank, world_size, address, port, spec, moves)
    try:
        passes = [Pass(name, COLUMNS[name], Moment.batch) for name in names]
        values = [column(trainer, one, spec, batch) for one in passes]
        return {"columns": values, "awake": list(trainer._roster.residency.awake), "weights": gathered(trainer)}
    finally:
        trainer.close()


def train_critic_and_export(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, batch: Batch, folder: str, saved: str
) -> np.ndarray:
    """Train one iteration, save a checkpoint, export the critic, and give the values of the trained one."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        iterate(trainer, spec, batch, 0)
        trainer.save(saved)
        trainer.export(folder, "critic")
        return column(trainer, Pass("values", COLUMNS["values"], Moment.batch), spec, batch)
    finally:
        trainer.close()


def break_off(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, batch: Batch
) -> list[tuple[int, bool]]:
    """Iterations that fail in their first step, in none, and in their second: steps begun by then, and `part_made`."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    policy = trainer._roster.trained("policy")
    told = [(policy.steps_begun, trainer.part_made())]
    whole = policy._step
    try:
        for version, failing in enumerate((0, None, 1)):

            def step(number: int, *given: Any, failing: int | None = failing) -> None:
                if number == failing:
                    raise RuntimeError("no step")
                whole(number, *given)

            policy._step = step
            with nullcontext() if failing is None else pytest.raises(RuntimeError, match="no step"):
                iterate(trainer, spec, batch, version)
            told.append((policy.steps_begun, trainer.part_made()))
        return told
    finally:
        trainer.close()

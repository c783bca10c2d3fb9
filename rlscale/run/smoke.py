"""`run.smoke`: one training step on the longest batch that a configuration allows, and what it took of the memory.

The ranks are the run's own, with its models, optimizer and layout; there are no engines, and nothing is kept.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from rlscale.config.derived.needs import Moment, Needs
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.config.shown import say
from rlscale.data.batches.rank_shard import split
from rlscale.data.folders.companions import companions_of
from rlscale.families.config_file import complete, read_config
from rlscale.run.assembly import trainer_spec
from rlscale.run.disk.run_folder import new_folder_name
from rlscale.run.model_folders import ModelFolders
from rlscale.run.processes.actor_host import ActorHost
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.placement import Layout, lay_out_run
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sides.batching import build_batch, divide
from rlscale.run.sides.rank_places import RankPlaces
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.run.smoke_groups import longest_groups
from rlscale.trainer.preparation import prepare


def smoke(config: Config, stop: StopSignal, notes: list[str], forks: Forks, host: ActorHost) -> int:
    """Make the step and print its peak; 0. RunFailed where a rank runs out of memory, or fails otherwise."""
    config, own = _one_step(config)
    for note in (*notes, *own):
        say(f"note: {note}")
    cluster = config.cluster
    logs = (Path(config.run.root) / config.run.recipe / f"smoke_{new_folder_name()}").resolve()
    calls = Calls(stop, cluster.call_timeout_s, str(logs), cluster.answer_timeout_s, host)
    models = ModelFolders.of(config).taught_by(config)
    if Needs.of(config).teacher and models.teacher is None:
        models = dataclasses.replace(models, teacher=models.policy)
        say("note: the teacher is not there yet: the policy's model stands in for it")
    layout = lay_out_run(config)
    nodes = host.machines(layout.nodes, cluster.gpus_per_node)
    trainer = TrainerGroup(RankPlaces(layout, nodes, calls, logs, config, forks))
    try:
        spec = dataclasses.replace(trainer_spec(config, models), companions=companions_of(config, models.policy))
        trainer.start(spec, cluster.start_timeout_s)
        say("\n".join(_lines(config, layout, *_step(config, trainer, models))))
    finally:
        trainer.close()
    shutil.rmtree(logs, ignore_errors=True)  # they stay where something failed
    return 0


def _one_step(config: Config) -> tuple[Config, list[str]]:
    """The configuration of a single step, and what of it is otherwise than in the run."""
    notes = []
    algo = dataclasses.replace(config.algo, steps_per_iteration=1, epochs_per_iteration=1)
    trainer = config.trainer
    if trainer.routing_replay is RoutingReplay.rollout:
        trainer = dataclasses.replace(trainer, routing_replay=RoutingReplay.none)
        notes.append("trainer.routing_replay=rollout: without engines the trainer chooses the experts itself")
    if config.warm_start is not None:
        notes.append("the warm start is left out: its weights take what the model's own do")
    changed = dataclasses.replace(config, algo=algo, trainer=trainer, warm_start=None)
    changed.freeze()
    return changed, notes


def _step(config: Config, trainer: TrainerGroup, models: ModelFolders) -> tuple[int, dict[str, float]]:
    """Passes and step as an iteration makes them: how many samples, and the metrics."""
    groups = longest_groups(config, int(complete(read_config(models.policy))["vocab_size"]))
    batch = build_batch(groups, config).with_column("version", 0)
    parts, plan = divide(batch, config)
    for one in Needs.of(config).passes_at(Moment.batch):
        batch = batch.with_column(one.column, trainer.columns(one, parts, batch))
    batch, _ = prepare(batch, config.algo, max_response_tokens=config.rollout.max_response_tokens)
    supervised = Needs.of(config).supervised
    metrics = trainer.train_shards(split(batch, plan), 0, force_old=not (supervised or config.algo.correction.bypass))
    return batch.rows, metrics


def _lines(config: Config, layout: Layout, samples: int, metrics: dict[str, float]) -> list[str]:
    longest = config.rollout.max_prompt_tokens + config.rollout.max_response_tokens
    peak, ranks = metrics["memory_peak_gb"], len(layout.ranks)
    whose = "a rank's process at most"
    if config.cluster.device is Device.cuda:
        size = config.cluster.gpu_memory_gb
        whose = f"a GPU's {size:g} GB at most, by tensors" if size is not None else "a GPU at most, by tensors"
    return [
        f"one step on {samples} samples of {longest} tokens, {metrics['microbatches']:.0f} micro-batches on each of "
        f"{ranks} rank{'s' if ranks > 1 else ''}: {metrics['train_seconds']:.1f} s",
        f"it took {peak:.2f} GB of {whose}; engines that share the device are not counted",
    ]

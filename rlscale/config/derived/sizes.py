"""Every size that follows from the configuration, computed once and printed at the start of a run."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.derived.needs import Needs
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import ClusterConfig, Device, Placement


@dataclass(frozen=True)
class Sizes:
    """Derived sizes. Batch sizes are counted in groups first; samples follow."""

    trainer_devices: int
    """GPUs of the trainer; on the CPU the ranks that may share the cores."""
    engine_devices: int
    """GPUs of the engines; on the CPU the engines that may share the cores."""
    model_ranks: int
    """Ranks that together hold one copy of the model: tensor x pipeline x context."""
    data_parallel: int
    trainer_ranks: int
    engines: int
    started_engines: int
    """Of those the ones that the run starts itself: none where `rollout.engine_urls` names them."""
    eval_engines: int
    """Engines that do nothing but evaluate."""
    beside: dict[str, int]
    """Engines that the run starts for each model of `rollout.models`, by its name."""
    engine_gpus: int
    """GPUs of the policy's engines; 0 on the CPU, and without those of engines that somebody else started."""
    beside_gpus: int
    """GPUs of the engines in `beside`; 0 on the CPU."""
    groups_per_iteration: int
    groups_per_step: int
    samples_per_iteration: int
    samples_per_step: int
    steps_per_iteration: int
    """Optimizer steps of an iteration, epochs included."""
    total_steps: int
    """Optimizer steps of the run."""
    max_sequence_tokens: int
    """Longest prompt plus longest response."""
    max_tokens_per_iteration: int
    models: tuple[str, ...]
    """Models of the trainer by name, the policy first."""

    @classmethod
    def of(cls, config: Config) -> Sizes:
        """The sizes of a configuration; meaningful once `check(config)` has accepted it, and never an error before."""
        parallel, rollout, algo, cluster = config.parallel, config.rollout, config.algo, config.cluster
        model_ranks = max(1, parallel.tensor * parallel.pipeline * parallel.context)
        trainer_devices, engine_devices = _devices(cluster)
        filled = 1 if cluster.device is Device.cpu else max(1, trainer_devices // model_ranks)
        data_parallel = parallel.data if parallel.data is not None else filled
        samples = rollout.groups_per_iteration * rollout.samples_per_group
        steps = max(1, algo.steps_per_iteration)
        per_iteration = algo.steps_per_iteration * algo.epochs_per_iteration
        needs = Needs.of(config)
        own_engines = rollout.engine_count if needs.engines else 0
        eval_engines = config.eval.engines if needs.measures_apart else 0
        started = 0 if rollout.engine_urls else own_engines
        own_gpus = sum(rollout.engine_gpus) if started else 0
        served = {name: one for name, one in rollout.models.items() if needs.engines}
        beside = {name: 0 if one.engine_urls else one.engines for name, one in served.items()}
        on_gpus = int(cluster.device is Device.cuda)
        sequence = rollout.max_prompt_tokens + rollout.max_response_tokens
        return cls(
            trainer_devices=trainer_devices,
            engine_devices=engine_devices,
            model_ranks=model_ranks,
            data_parallel=data_parallel,
            trainer_ranks=model_ranks * data_parallel if needs.trains else 0,
            engines=own_engines,
            started_engines=started,
            eval_engines=eval_engines,
            beside=beside,
            engine_gpus=on_gpus * (own_gpus + eval_engines * rollout.gpus_per_engine),
            beside_gpus=on_gpus * sum(number * served[name].gpus_per_engine for name, number in beside.items()),
            groups_per_iteration=rollout.groups_per_iteration,
            groups_per_step=rollout.groups_per_iteration // steps,
            samples_per_iteration=samples,
            samples_per_step=samples // steps,
            steps_per_iteration=per_iteration,
            total_steps=config.run.iterations * per_iteration,
            max_sequence_tokens=sequence,
            max_tokens_per_iteration=samples * sequence,
            models=needs.models,
        )

    @property
    def all_engines(self) -> int:
        """Engines that share the cores of a machine without a GPU."""
        return self.engines + self.eval_engines + sum(self.beside.values())

    @property
    def starts_engines(self) -> bool:
        """Whether the run starts any itself."""
        return self.started_engines + self.eval_engines + sum(self.beside.values()) > 0

    def lines(self) -> list[str]:
        """What the run prints at its start."""
        return [
            f"batch: {self.groups_per_iteration} groups = {self.samples_per_iteration} samples per iteration, "
            f"{self.steps_per_iteration} optimizer steps of {self.groups_per_step} groups "
            f"= {self.samples_per_step} samples",
            *self._of_trainer(),
            f"engines: {self.engines}"
            + (f" and {self.eval_engines} for evaluation" if self.eval_engines else "")
            + "".join(f", {number} for {name}" for name, number in self.beside.items() if number)
            + (f" on {gpus} GPUs" if (gpus := self.engine_gpus + self.beside_gpus) else ""),
            f"tokens: at most {self.max_sequence_tokens} per sample, {self.max_tokens_per_iteration:,} per iteration",
        ]

    def _of_trainer(self) -> list[str]:
        if not self.trainer_ranks:
            return ["trainer: none, the run only generates"]
        return [
            f"trainer: {self.trainer_ranks} ranks = {self.data_parallel} data-parallel x {self.model_ranks} per copy"
            + (f", models {', '.join(self.models)}" if len(self.models) > 1 else "")
        ]


def _devices(cluster: ClusterConfig) -> tuple[int, int]:
    """(of the trainer, of the engines)."""
    if cluster.device is Device.cpu:
        return cluster.max_trainer_ranks, cluster.max_engines
    total = cluster.nodes * cluster.gpus_per_node
    if cluster.placement is Placement.colocated:
        return total, total
    engines = cluster.rollout_nodes * cluster.gpus_per_node + cluster.rollout_gpus
    return total - engines, engines

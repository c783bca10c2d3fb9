"""What a trainer rank is told. Plain data: it is made by the driver and travels to the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.parallel_config import ParallelConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.config.schema.weights_config import WeightsConfig
from rlscale.data.folders.companions import Companions
from rlscale.families.served_form import ServedForm
from rlscale.trainer.adapter_base import base_of


class Form(Enum):
    """How a model lies on disk."""

    hugging_face = "hugging_face"
    """A folder with config.json and safetensors."""
    checkpoint = "checkpoint"
    """Megatron's distributed checkpoint, of weights alone."""


@dataclass(frozen=True)
class TrainerSpec:
    """Everything that the ranks of one trainer need to know."""

    model: ModelConfig
    """The model's section; its parameter type is read from it."""
    model_path: str
    """Hugging Face folder of the model: architecture, tokenizer, and weights unless `init_path` differs."""
    init_path: str
    """Hugging Face folder whose weights the policy (and the reference) starts from."""
    parallel: ParallelConfig
    """How the model is split over the ranks."""
    optim: OptimConfig
    """The optimizer."""
    trainer: TrainerConfig
    """How a step is computed."""
    algo: AlgoConfig
    """The algorithm."""
    weights: WeightsConfig
    """How weights are sent."""
    device: Device
    """What the ranks compute on."""
    temperature: float
    """Temperature that the samples were drawn at; logits are divided by it."""
    total_steps: int
    """Optimizer steps of the whole run, a critic's warm-up included; the learning-rate schedules end there."""
    seed: int
    """Seed of the ranks' random state."""
    data_parallel: int
    """Data-parallel ranks."""
    critic: CriticConfig | None = None
    """The critic's sections; None for an algorithm without one."""
    critic_path: str = ""
    """Hugging Face folder of the critic's architecture; empty is `model_path`."""
    critic_init_path: str = ""
    """Hugging Face folder whose weights the critic starts from; empty is `critic_path`."""
    teacher_path: str | None = None
    """Hugging Face folder of the teacher; None for an algorithm without one."""
    kept_versions: int = 0
    """Versions of the policy's weights that are kept besides the present one, for `algo.old_logprobs=behaviour`."""

    adapter_path: str | None = None
    """Checkpoint or folder of the adapters that the policy starts from; None for those of `model.lora`."""

    served: ServedForm = field(default_factory=ServedForm)
    """The form in which engines hold the policy's weights."""
    batch_invariant: bool = False
    """Whether a token's results may not depend on what else is in its micro-batch, see `platform.batch_invariant`."""
    companions: Companions | None = None
    """What is exported beside the policy's weights; None for the files of `model_path` as they are."""

    @property
    def beside(self) -> Companions:
        """What is exported beside the weights."""
        return self.companions or Companions(self.model_path, self.model_path)

    @property
    def shards_optimizer(self) -> bool:
        """Whether the state of an optimizer, the policy's or the critic's, is sharded over data-parallel ranks."""
        of_critic = self.critic is not None and self.critic.trainer.distributed_optimizer
        return self.trainer.distributed_optimizer or of_critic

    def of_policy(self) -> TrainerSpec:
        """What the policy is built from: its schedule leaves out the iterations that train the critic alone."""
        if self.critic is None:
            return self
        alone = self.critic.warmup_iterations * self.algo.steps_per_iteration * self.algo.epochs_per_iteration
        return replace(self, total_steps=max(self.total_steps - alone, 1))

    def of_checkpoint(self, folder: str) -> TrainerSpec:
        """What a policy is built from to be as in a run's checkpoint, which with `model.lora` has adapters alone.

        They stand on the folder that they name, or if it is not there any more, on what the configuration names.
        """
        if self.model.lora is not None:
            base = base_of(folder)
            there = base is not None and Path(base).is_dir()
            return replace(self, adapter_path=folder, init_path=base if base is not None and there else self.init_path)
        return replace(self, init_path=folder)

    def of_critic(self) -> TrainerSpec:
        """What the critic is built from, in the policy's layout. ValueError without a critic."""
        if self.critic is None:
            raise ValueError("this run has no critic")
        folder = self.critic_path or self.model_path
        return replace(
            self,
            model=self.critic.model,
            model_path=folder,
            init_path=self.critic_init_path or folder,
            optim=self.critic.optim,
            trainer=self.critic.trainer,
            companions=None if self.companions is None else replace(self.companions, model_folder=folder),
        )

    def of_teacher(self) -> TrainerSpec:
        """What a teacher of another architecture is built from, in the policy's layout. ValueError without one."""
        if self.teacher_path is None:
            raise ValueError("this run has no teacher")
        return replace(self, model_path=self.teacher_path, init_path=self.teacher_path)

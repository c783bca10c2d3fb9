"""The whole configuration as one typed tree. Every key has a type, a default or a group that fills it, a meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlscale.config.schema.about import Scope, key
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.config.schema.checkpoint_config import CheckpointConfig
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.config.schema.component import component
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.config.schema.data_config import DataConfig
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.parallel_config import ParallelConfig
from rlscale.config.schema.profile_config import ProfileConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.config.schema.run_config import RunSection, WarmStartConfig
from rlscale.config.schema.section import Section
from rlscale.config.schema.teacher_config import TeacherConfig
from rlscale.config.schema.tracker_config import TrackerConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.config.schema.weights_config import SyncedLora, WeightsConfig

SINGLE_TURN = "rlscale.envs.environment.SingleTurn"
"""The environment of `env=single_turn`: one response, scored by the reward."""


@dataclass
class Config(Section):
    """The configuration of a run."""

    model: ModelConfig = MISSING
    """Which model is trained (group `model`)."""
    parallel: ParallelConfig = key(ParallelConfig, scope=Scope.execution)
    """How the trainer is split over ranks (group `parallel`)."""
    algo: AlgoConfig = MISSING
    """The algorithm (group `algo`)."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How samples are generated (group `rollout`)."""
    buffer: dict[str, Any] = component("rlscale.data.buffer.Buffer")
    """`_target_` of a rlscale.data.buffer.GroupBuffer and its arguments (group `buffer`)."""
    loop: dict[str, Any] = component("rlscale.run.loops.by_placement")
    """`_target_` of a function that is given the session and runs its iterations (group `loop`)."""
    cluster: ClusterConfig = MISSING
    """Which machines the run uses (group `cluster`)."""
    data: DataConfig = MISSING
    """Where prompts come from (group `data`)."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """What a response is worth (group `reward`)."""
    env: dict[str, Any] = component(SINGLE_TURN)
    """What an episode is: `_target_` of a rlscale.envs.environment.Environment and its arguments (group `env`)."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """Who makes samples by calling the policy, in place of the turns of `env`."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer (group `optim`)."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How the trainer computes a step."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic, for algorithms that have one."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher, for algorithms that distil."""
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    """How weights reach the engines."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints and resume."""
    tracker: TrackerConfig = key(TrackerConfig, scope=Scope.execution)
    """Where metrics go besides the run's own files (group `tracker`)."""
    profile: ProfileConfig = key(ProfileConfig, scope=Scope.this_run)
    """Looking closely at single iterations."""
    run: RunSection = field(default_factory=RunSection)
    """The run itself."""
    warm_start: WarmStartConfig | None = None
    """A supervised stage before this one."""

    @property
    def serves_adapters(self) -> bool:
        """Whether engines compute with the policy's adapter beside the weights that they start with."""
        return self.model.lora is not None and self.weights.lora is SyncedLora.adapter

    @property
    def syncs_in_waves(self) -> bool:
        """Whether some engines generate while others take weights."""
        most = self.weights.max_engines_at_once
        return most is not None and most < self.rollout.engine_count

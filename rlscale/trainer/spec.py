"""What a trainer rank is told. Plain data: it is made by the driver and travels to the ranks."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema.algo import AlgoConfig
from rlscale.config.schema.cluster import Device
from rlscale.config.schema.model import ModelConfig
from rlscale.config.schema.optim import OptimConfig
from rlscale.config.schema.parallel import ParallelConfig
from rlscale.config.schema.trainer import TrainerConfig
from rlscale.config.schema.weights import WeightsConfig


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
    """Optimizer steps of the whole run; the learning-rate schedule ends there."""
    seed: int
    """Seed of the ranks' random state."""
    data_parallel: int
    """Data-parallel ranks."""

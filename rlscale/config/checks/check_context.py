"""What the checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.keys import Key, keys
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import ModelConfig
from rlscale.families.tensors import experts_of


@dataclass
class CheckContext:
    """A configuration with what was derived and read for it; checks may add notes."""

    config: Config
    sizes: Sizes
    architecture: Mapping[str, Any] | None
    """The model's Hugging Face config; None where it cannot be read."""
    notes: list[str] = field(default_factory=list)

    @property
    def supervised(self) -> bool:
        """Whether the algorithm trains on labels instead of samples."""
        return self.needs.supervised

    @cached_property
    def needs(self) -> Needs:
        """What the algorithm needs."""
        return Needs.of(self.config)

    @cached_property
    def keys(self) -> list[Key]:
        """Every value of the configuration."""
        return keys(self.config)

    @property
    def advantage(self) -> str:
        """The option of the group `algo/advantage` that the advantage is, by its type."""
        return self.config.algo.advantage.option

    @property
    def loss(self) -> str:
        """The option of the group `algo/loss` that the loss is, by its type."""
        return self.config.algo.loss.option

    @property
    def on_gpus(self) -> bool:
        """Whether trainer and engines compute on GPUs."""
        return self.config.cluster.device is Device.cuda

    @property
    def experts(self) -> int:
        """Experts of each layer; 0 in a dense model, and where its config cannot be read."""
        return experts_of(self.architecture or {})

    def architecture_of(self, model: ModelConfig) -> Mapping[str, Any] | None:
        """The config of a model, the policy's or another; None where it cannot be read."""
        if model == self.config.model:
            return self.architecture
        try:
            return read_architecture(model)
        except UserError:
            return None  # another check says what is wrong with it

    def has_experts(self, model: ModelConfig) -> bool | None:
        """Whether a model, the policy's or another, has experts; None where its config cannot be read."""
        architecture = self.architecture_of(model)
        return None if architecture is None else experts_of(architecture) > 0

    def size(self, key: str) -> int | None:
        """A whole number of the architecture, None where it has none."""
        value = (self.architecture or {}).get(key)
        return int(value) if isinstance(value, int) and value > 0 else None


def divisors(number: int, at_most: int = 1024) -> str:
    """Its divisors as "1, 2 or 4"."""
    found = [str(n) for n in range(1, min(number, at_most) + 1) if number % n == 0]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"

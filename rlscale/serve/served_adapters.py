"""What an engine is started with to compute with an adapter beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlscale.config.schema.cluster_config import Device

ADAPTERS = 2
"""Adapters of which a batch of SGLang has room: one, and none, which it counts as one."""


@dataclass(frozen=True)
class ServedAdapters:
    """Of what kind the adapters are."""

    rank: int
    modules: tuple[str, ...]
    """Last parts of the names of the linears that have them, in Hugging Face's form: q_proj."""

    def options(self, device: Device, *, memory_saver: bool) -> dict[str, Any]:
        """Options of SGLang's ServerArgs."""
        options: dict[str, Any] = {
            "enable_lora": True,
            "max_lora_rank": self.rank,
            "lora_target_modules": list(self.modules),
            "max_loras_per_batch": ADAPTERS,
        }
        if device is Device.cpu:
            options["lora_backend"] = "torch_native"
        if memory_saver:  # nobody sends the weights anew that an engine releases
            options["enable_weights_cpu_backup"] = True
        return options

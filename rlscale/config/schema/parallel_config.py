"""How the trainer is split over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema.about import bounded
from rlscale.config.schema.limits import DEVICES
from rlscale.config.schema.section import Section


@dataclass
class ParallelConfig(Section):
    """Sizes of Megatron's parallel groups. Their product (without expert sizes) is the number of trainer ranks."""

    tensor: int = bounded(1, at_least=1, limit=DEVICES)
    """Tensor-parallel ranks; must divide the attention heads and the key-value heads."""
    sequence: bool = False
    """Sequence parallelism: splits activations between the tensor-parallel regions; needs tensor > 1."""
    pipeline: int = bounded(1, at_least=1, limit=DEVICES)
    """Pipeline-parallel stages; must divide the layers."""
    virtual_pipeline: int | None = bounded(None, at_least=2, limit=DEVICES)
    """Model chunks per pipeline stage (interleaved schedule); null for none."""
    context: int = bounded(1, at_least=1, limit=DEVICES)
    """Context-parallel ranks (each sequence is cut zig-zag over them)."""
    expert: int = bounded(1, at_least=1, limit=DEVICES)
    """Expert-parallel ranks; must divide the experts, and with `expert_tensor` the ranks of a pipeline stage."""
    expert_tensor: int | None = bounded(None, at_least=1, limit=DEVICES)
    """Tensor-parallel ranks inside an expert; must divide the experts' intermediate size; null means 1."""
    data: int | None = bounded(None, at_least=1, limit=DEVICES)
    """Data-parallel ranks; null fills the trainer's devices (one on the CPU)."""

"""An adapter of low rank that is trained in the place of the model: LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.about import Limit, bounded, path_key
from rlscale.config.schema.dtype import DType
from rlscale.config.schema.section import Section
from rlscale.families.served_form import WeightForm


class LoraInit(Enum):
    """How the matrices A of a new adapter are drawn; B is zero, so that it changes nothing at first."""

    kaiming = "kaiming"
    """Uniform in +-1/sqrt(inputs), as peft does by default."""
    gaussian = "gaussian"
    """Normal with standard deviation 1/rank."""


@dataclass
class LoraConfig(Section):
    """Each chosen linear W gets W + alpha / rank * B A; A and B are trained, and nothing else."""

    rank: int = bounded(8, at_least=1, limit=Limit(65536, "no linear has so many inputs that more would be of use"))
    """Rows of A and columns of B."""
    alpha: float = bounded(16.0, above=0, limit=Limit(1e6, "B A is multiplied by alpha / rank"))
    """What B A is multiplied by, times the rank."""
    targets: list[str] | None = None
    """Linears with an adapter, by patterns over Hugging Face names: `*.self_attn.*`; null: all outside experts."""
    init: LoraInit = LoraInit.kaiming
    """How A is drawn: kaiming or gaussian."""
    dtype: DType | None = None
    """Type of A and B while training; null: the model's."""
    base: WeightForm = WeightForm.as_trained
    """In which form the trainer keeps the frozen linears: `as_trained`, `int4` or `mxfp8`, which the policy then is."""
    dropout: float = bounded(0.0, at_least=0, below=1)
    """Only 0: with dropout the trained log-probs would not be those of the policy that sampled."""
    path: str | None = path_key(None)
    """Folder with an adapter in peft's form to start from; null: a new one."""

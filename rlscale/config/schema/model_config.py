"""Which model is trained: a Hugging Face folder or name, or a small random one that the project makes itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlscale.config.schema.about import Limit, PathKind, bounded, key, path_key
from rlscale.config.schema.dtype import DType
from rlscale.config.schema.limits import SEED
from rlscale.config.schema.lora_config import LoraConfig
from rlscale.config.schema.section import Section

__all__ = ["CreateModelConfig", "DType", "ModelConfig"]

_SAME_TOKENS = "the critic reads the policy's tokens"


@dataclass
class CreateModelConfig(Section):
    """How to make a small random model, so that a recipe needs no download."""

    architecture: dict[str, Any] = field(default_factory=dict)
    """The Hugging Face config of the model: `model_type` and its sizes."""
    characters: str = MISSING
    """Every character that the tokenizer knows; one token each, in this order, after the special tokens."""
    seed: int = bounded(0, at_least=0, limit=SEED)
    """Seed of the random weights."""


@dataclass
class ModelConfig(Section):
    """The policy's model. Its architecture is read from the Hugging Face config, never typed twice."""

    name: str = key(MISSING, describes=True)
    """Short name in logs and file names."""
    path: str | None = path_key(None, PathKind.folder_or_name)
    """Hugging Face folder or hub name with config, tokenizer and weights; null makes the model from `model.create`."""
    create: CreateModelConfig | None = None
    """How to make the model when `model.path` is null."""
    init: str | None = path_key(None)
    """Hugging Face folder or Megatron checkpoint whose weights the policy starts from; null means the model's own."""
    tokenizer: str | None = path_key(None, PathKind.folder_or_name, shared=_SAME_TOKENS)
    """Folder or hub name of the tokenizer; null means the model's."""
    chat_template: str | None = path_key(None, PathKind.file, shared=_SAME_TOKENS)
    """File with a Jinja chat template that replaces the tokenizer's; null keeps the tokenizer's."""
    dtype: DType = DType.float32
    """Type of the parameters in training and on the engines."""
    lora: LoraConfig | None = None
    """Adapters that are trained in the place of the model's own weights; null: the weights are trained."""
    tool_parser: str | None = None
    """SGLang's tool_call_parser of this model; agents use it, environments where `rollout.tool_parser` is `model`."""
    reasoning_parser: str | None = None
    """SGLang's reasoning_parser of this model, used likewise; null: it does not think apart."""
    parameters: float | None = bounded(None, above=0, limit=Limit(1e15, "no model has that many"), describes=True)
    """Number of parameters, for size checks before the model is downloaded; after that its config counts."""

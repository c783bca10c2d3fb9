"""A model of a rank, and what it is for: Megatron's GPT, in Megatron's DDP if it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig

from rlscale.families.family import Head, Reach
from rlscale.trainer.megatron.model.adapters import Adapters
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import ModelGroups


class Role(Enum):
    """What a model of a trainer rank is for."""

    policy = "policy"
    """Trained, gives logits."""
    critic = "critic"
    """Trained, gives values."""
    teacher = "teacher"
    """Frozen, gives logits."""

    @property
    def head(self) -> Head:
        """What stands on its last layer."""
        return Head.value if self is Role.critic else Head.language

    @property
    def trained(self) -> bool:
        """Whether it has gradients."""
        return self is not Role.teacher


@dataclass
class Model:
    """A model on this rank: one chunk, or several with virtual pipeline stages."""

    config: TransformerConfig
    """Megatron's configuration of it."""
    bare: list[GPTModel]
    """The chunks without wrappers."""
    wrapped: list[Any]
    """The chunks as passes use them: in Megatron's DDP if the model is trained."""
    weights: WeightMap
    """Names and shapes in Hugging Face's form."""
    groups: ModelGroups
    """The groups that its parameters are spread over."""
    vocabulary: int
    """Entries of the vocabulary, without padding."""
    padded_vocabulary: int
    """Entries of the vocabulary, with padding."""
    attends_in_batches: bool
    """Whether segments attend in batches, by torch's attention, which micro-batches must then have."""
    brought_embedding: torch.Tensor | None = None
    """The first stage's embedding, while a last stage trains a layer that reads it; see `steps.mtp_loss`."""

    @property
    def mtp(self) -> bool:
        """Whether it has the layer that predicts a token further, on its last stage."""
        return self.weights.mtp

    adapters: Adapters | None = None
    """What is trained in the place of its own weights, with `model.lora`."""
    batch_invariant: bool = False
    """Whether a token's results do not depend on what else is in its micro-batch."""
    reach: Reach | None = None
    """How many tokens its attention sees at most, and a sequence may have; None where it sees all."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """All parameters of this rank, in a fixed order."""
        return [parameter for chunk in self.bare for parameter in chunk.parameters()]

    def versioned(self) -> list[torch.nn.Parameter]:
        """The parameters in which versions of the model differ, in a fixed order."""
        return self.parameters() if self.adapters is None else self.adapters.parameters()

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Within the block it computes as if it had no adapters. Forward passes only."""
        if self.adapters is None:
            yield
            return
        with self.adapters.off():
            yield

    def mtp_parameters(self) -> list[torch.nn.Parameter]:
        """Those of them that belong to the layer that predicts a token further."""
        layers = (chunk.mtp_layer for chunk in self.bare if hasattr(chunk, "mtp_layer"))
        return [parameter for layer in layers for parameter in layer.parameters()]

    @property
    def parallel_chunks(self) -> list[DistributedDataParallel]:
        """The chunks in Megatron's DDP; none of a frozen model."""
        return [chunk for chunk in self.wrapped if isinstance(chunk, DistributedDataParallel)]

    @property
    def last_chunk(self) -> GPTModel:
        """The chunk with the head; only on the last stage."""
        (last,) = (chunk for chunk in self.bare if chunk.post_process)
        return last

    @property
    def embedding_weight(self) -> torch.Tensor:
        """This rank's part of the embedding [words, hidden]; on the first stage, and a last one that has its values."""
        for chunk in self.bare:
            if chunk.pre_process:
                weight: torch.Tensor = chunk.embedding.word_embeddings.weight
                return weight
        if self.weights.tied:
            return self.output_weight
        assert self.brought_embedding is not None, "it is brought before a step"
        return self.brought_embedding

    @property
    def output_weight(self) -> torch.Tensor:
        """This rank's part of the output projection [words, hidden]; only on the last stage of a language model."""
        last = self.last_chunk
        weight: torch.Tensor = (
            last.shared_embedding_or_output_weight() if self.weights.tied else last.output_layer.weight
        )
        return weight

    def train(self) -> None:
        """Training mode (dropout, if the model has any)."""
        for chunk in self.wrapped:
            chunk.train()

    def eval(self) -> None:
        """Evaluation mode."""
        for chunk in self.wrapped:
            chunk.eval()

    def finish_gathering(self) -> None:
        """With `overlap_param_gather` the last step's parameters may still be on their way: wait for them."""
        for chunk in self.parallel_chunks:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

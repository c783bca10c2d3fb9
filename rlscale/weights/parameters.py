"""The parameters of a rank's Megatron model under names that count layers and experts over the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EXPERTS = ".mlp.experts."
_ADAPTER = ".adapter."
"""In the names of what `model.lora` adds to a linear, which is no parameter of the model itself."""
MTP_LAYER = "mtp_layer."
"""What names begin with, in a chunk, of the layer that predicts a token further."""


@dataclass(frozen=True)
class ModelGroups:
    """The process groups over which a model's parameters are spread."""

    tensor: Any
    expert: Any
    expert_tensor: Any
    pipeline: Any

    @staticmethod
    def of_megatron() -> ModelGroups:
        """Megatron's groups of this process."""
        from megatron.core import parallel_state

        return ModelGroups(
            parallel_state.get_tensor_model_parallel_group(),
            parallel_state.get_expert_model_parallel_group(),
            parallel_state.get_expert_tensor_parallel_group(),
            parallel_state.get_pipeline_model_parallel_group(),
        )


def is_of_adapter(name: str) -> bool:
    """Whether that is the name of an adapter's parameter, within its model."""
    return _ADAPTER in name


def named_parameters(chunks: Sequence[torch.nn.Module], expert_group: Any) -> Iterator[tuple[str, Tensor]]:
    """(global name, parameter) of a rank's chunks, without wrappers and adapters, in the order of the modules."""
    for chunk in chunks:
        layers = [layer.layer_number - 1 for layer in chunk.decoder.layers]  # type: ignore[union-attr]  # a GPTModel
        for name, parameter in chunk.named_parameters():
            if not is_of_adapter(name):
                yield _global_name(name, layers, chunk, expert_group), parameter


def named_tensors(chunks: Sequence[torch.nn.Module], expert_group: Any) -> Iterator[tuple[str, Tensor]]:
    """`named_parameters`, and what belongs to a model and is never trained: the biases of routers."""
    yield from named_parameters(chunks, expert_group)
    for chunk in chunks:
        layers = [layer.layer_number - 1 for layer in chunk.decoder.layers]  # type: ignore[union-attr]  # a GPTModel
        for name, buffer in chunk.named_buffers():
            if name.endswith(".router.expert_bias"):
                yield _global_name(name, layers, chunk, expert_group), buffer


def _global_name(name: str, layers: list[int], chunk: Any, expert_group: Any) -> str:
    if name.startswith(MTP_LAYER):  # one more layer, behind the model's own
        layer = chunk.mtp_layer.transformer_layer.layer_number - 1
        rest = name.removeprefix(MTP_LAYER).removeprefix("transformer_layer.")
    elif name.startswith("decoder.layers."):
        local, _, rest = name.removeprefix("decoder.layers.").partition(".")
        layer = layers[int(local)]
    else:
        return name
    if EXPERTS in name and expert_group.size() > 1:
        stem, _, number = rest.rpartition("weight")
        experts = chunk.config.num_moe_experts // expert_group.size()
        rest = f"{stem}weight{int(number) + expert_group.rank() * experts}"
    return f"decoder.layers.{layer}.{rest}"

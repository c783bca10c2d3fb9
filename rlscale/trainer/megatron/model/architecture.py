"""From a Hugging Face config to Megatron's TransformerConfig. A family that is not listed is refused, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from torch.nn import functional as F

from rlscale.config.errors import UserError
from rlscale.config.schema.trainer_config import EightBits, Recompute
from rlscale.families import FAMILIES, Family, FolderError
from rlscale.families.config_file import CONFIG, complete, differences, problems, read_config
from rlscale.families.rotary import Rotary
from rlscale.families.tensors import experts_of
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model.layer_spec import uses_transformer_engine
from rlscale.trainer.trainer_spec import TrainerSpec


@dataclass(frozen=True)
class Architecture:
    """What the model's Hugging Face config says."""

    hf: Mapping[str, Any]
    """The config.json with every key that matters, see `families.config_file.complete`."""

    @staticmethod
    def read(folder: str) -> Architecture:
        """Read `config.json` of a model folder. UserError for a family that Megatron cannot be given faithfully."""
        try:
            given = read_config(Path(folder))
        except FolderError as error:
            raise UserError(f"{folder}: {error}") from error
        file = Path(folder) / CONFIG
        for problem in problems(given):
            raise UserError(f"{file}: {problem}")
        hf = complete(given)
        for problem in FAMILIES[hf["model_type"]].unsupported(hf):
            raise UserError(f"{file}: {problem}")
        return Architecture(hf)

    @property
    def family(self) -> Family:
        """What is known of its family."""
        return FAMILIES[str(self.hf["model_type"])]

    @property
    def vocabulary(self) -> int:
        """Entries of the vocabulary, without padding."""
        return int(self.hf["vocab_size"])

    @property
    def tied(self) -> bool:
        """Whether embedding and output projection are one tensor."""
        return bool(self.hf.get("tie_word_embeddings", False))

    @property
    def experts(self) -> int:
        """Experts of each layer; 0 for a dense model."""
        return experts_of(self.hf)

    @property
    def rotary(self) -> Rotary:
        """Its rotary positions."""
        return Rotary.of(self.hf)

    def same_as(self, other: Architecture) -> bool:
        """Whether both make the same Megatron model, so that one's weights fit into the other."""
        return not differences(self.hf, other.hf)

    def padded_vocabulary(self, tensor_parallel: int) -> int:
        """Entries of the vocabulary, rounded up to what the tensor-parallel ranks can share."""
        return -(-self.vocabulary // tensor_parallel) * tensor_parallel


def transformer_config(architecture: Architecture, spec: TrainerSpec, platform: Platform) -> TransformerConfig:
    """Megatron's configuration of the model as the run splits it. UserError for options that Megatron refuses."""
    fused = uses_transformer_engine(platform, getattr(torch, spec.model.dtype.value), architecture.family)
    options = {
        **_of_family(architecture),
        **_layout(spec),
        **_recompute(spec),
        **_numbers(spec, platform, architecture.family),
        **(_eight_bits(spec.trainer.fp8) if fused else {}),
        **spec.trainer.megatron,
    }
    try:
        return (MLATransformerConfig if architecture.family.latent else TransformerConfig)(**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"Megatron refuses this model, parallel.* and trainer.megatron.* together: {error}") from error


def _of_family(architecture: Architecture) -> dict[str, Any]:
    """What the family says of the model, with the function that it names."""
    options = architecture.family.transformer_options(architecture.hf)
    return {**options, "activation_func": getattr(F, options["activation_func"])}


def _layout(spec: TrainerSpec) -> dict[str, Any]:
    parallel = spec.parallel
    chunks = parallel.virtual_pipeline if parallel.pipeline > 1 else None
    return {
        "tensor_model_parallel_size": parallel.tensor,
        "sequence_parallel": parallel.sequence and parallel.tensor > 1,
        "pipeline_model_parallel_size": parallel.pipeline,
        "virtual_pipeline_model_parallel_size": chunks,
        "context_parallel_size": parallel.context,
        "expert_model_parallel_size": parallel.expert,
        "expert_tensor_parallel_size": parallel.expert_tensor or 1,
        "variable_seq_lengths": parallel.pipeline > 1,  # micro-batches differ in size, so stages must say how large
        "batch_p2p_comm": chunks is None,
        "overlap_p2p_comm": chunks is not None,
        "moe_token_dispatcher_type": "alltoall",  # asked for with varying micro-batches, experts or not
        "calculate_per_token_loss": True,  # gradients are summed over ranks and micro-batches, never averaged
    }


def _recompute(spec: TrainerSpec) -> dict[str, Any]:
    if spec.trainer.recompute is Recompute.full:
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    if spec.trainer.recompute is Recompute.selective:
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return {}


def _numbers(spec: TrainerSpec, platform: Platform, family: Family) -> dict[str, Any]:
    """Types, and fused kernels: on the CPU there are none, on CUDA each can be switched on by its name.

    Rotary positions are fused with Transformer Engine: unfused, Megatron reads the segments' lengths back from the GPU
    in every layer.
    """
    dtype = getattr(torch, spec.model.dtype.value)
    return {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "deterministic_mode": spec.trainer.deterministic and platform.is_cuda,  # the CPU's operations always are
        "use_cpu_initialization": not platform.is_cuda,
        "persist_layer_norm": False,
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": uses_transformer_engine(platform, dtype, family),
    }


def _eight_bits(recipe: EightBits) -> dict[str, Any]:
    """The format of the numbers, and whose scales they have.

    Gradients have the wider range of e5m2 where a whole tensor shares a scale. Attention stays in 16 bits, and so do
    the parameters, which are what the optimizer moves and engines are sent.
    """
    if recipe is EightBits.none:
        return {}
    return {"fp8": "hybrid" if recipe is EightBits.tensorwise else "e4m3", "fp8_recipe": recipe.value}

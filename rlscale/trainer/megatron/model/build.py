"""Building a model: Megatron's GPT with our layer spec and heads; in Megatron's DDP if it is trained."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module

from rlscale.config.errors import UserError
from rlscale.config.schema.trainer_config import Mtp
from rlscale.families import reach_of
from rlscale.families.family import Head
from rlscale.families.multi_token_prediction import why_not_trained
from rlscale.platform.device import Platform
from rlscale.platform.rotary_frequencies import frequencies
from rlscale.trainer.megatron.model.adapters import add_adapters
from rlscale.trainer.megatron.model.architecture import Architecture, transformer_config
from rlscale.trainer.megatron.model.attention import takes_packed
from rlscale.trainer.megatron.model.expert_router import follow_microbatches
from rlscale.trainer.megatron.model.fp8_products import check_eight_bits
from rlscale.trainer.megatron.model.freezing import freeze
from rlscale.trainer.megatron.model.invariant_layers import make_batch_invariant
from rlscale.trainer.megatron.model.layer_spec import block_spec, predicting_layer_spec, uses_transformer_engine
from rlscale.trainer.megatron.model.model import Model, Role
from rlscale.trainer.megatron.model.mtp_layer import MtpLayer
from rlscale.trainer.megatron.model.output_layer import OutputLayer
from rlscale.trainer.megatron.model.value_head import ValueHead
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import ModelGroups


def build_model(
    spec: TrainerSpec, platform: Platform, role: Role = Role.policy, *, trained: bool | None = None
) -> Model:
    """Build this rank's chunks, with weights as they are made. UserError for what cannot be built.

    `trained`: whether it has gradients; by default its role says so.
    A critic or teacher without experts may stand in a layout with expert parallelism: its layers are then those of
    `parallel.expert=1`.
    """
    trained = role.trained if trained is None else trained
    architecture = Architecture.read(spec.model_path)
    if role is not Role.policy and not architecture.experts:
        spec = replace(spec, parallel=replace(spec.parallel, expert=1))
    _check(architecture, spec, platform if trained else None, role)
    config = transformer_config(architecture, spec, platform)
    padded = architecture.padded_vocabulary(spec.parallel.tensor)
    weights = WeightMap(architecture.hf, role.head, mtp=role is Role.policy and spec.trainer.mtp is Mtp.trained)
    bare = [_chunk(architecture, config, platform, stage, padded, weights) for stage in _stages(config)]
    _put_heads(bare, config, platform, role.head)
    invariant = spec.batch_invariant and role is Role.policy  # nothing is compared with the others' bits
    for chunk in bare if invariant else ():
        make_batch_invariant(chunk)
    for parameter in (parameter for chunk in bare for parameter in chunk.parameters()):
        tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
        if not trained:
            parameter.requires_grad_(False)
    if trained:
        key = "critic.trainer.frozen (trainer.frozen unless it is set)" if role is Role.critic else "trainer.frozen"
        sharded = spec.trainer.distributed_optimizer
        freeze(bare, weights, spec.trainer.frozen, key, distributed_optimizer=sharded)
    adapters = None
    if spec.model.lora is not None and role is Role.policy:
        adapters = add_adapters(bare, weights, spec, ModelGroups.of_megatron(), trained=trained)
    inner = [Float16Module(config, chunk) if config.bf16 or config.fp16 else chunk for chunk in bare]
    return Model(
        config,
        bare,
        _wrap(inner, config, spec) if trained else inner,
        weights,
        ModelGroups.of_megatron(),
        architecture.vocabulary,
        padded,
        attends_in_batches=not (
            uses_transformer_engine(platform, config.params_dtype, architecture.family)
            or (takes_packed(config, platform.device) and not architecture.family.delta_net)
        ),
        adapters=adapters,
        reach=reach_of(architecture.hf),
        batch_invariant=invariant,
    )


def _check(architecture: Architecture, spec: TrainerSpec, trains_on: Platform | None, role: Role) -> None:
    if trains_on is not None:
        check_eight_bits(spec, trains_on, architecture)
    # It warns that our gated MLP is not the one it knows, and then does what is right.
    logging.getLogger("megatron.core.transformer.transformer_layer").setLevel(logging.ERROR)
    parallel = spec.parallel
    trains_mtp = role is Role.policy and spec.trainer.mtp is Mtp.trained
    if trains_mtp and (reason := why_not_trained(architecture.family, architecture.hf)):
        raise UserError(f"trainer.mtp=trained: {reason}; use frozen")
    if architecture.experts and parallel.tensor > 1 and not parallel.sequence:
        raise UserError("a mixture of experts with parallel.tensor > 1 needs parallel.sequence=true")
    if not architecture.experts and parallel.expert > 1:
        raise UserError(
            f"parallel.expert={parallel.expert}, but {architecture.family.model_type} has no experts; use 1"
        )


def _stages(config: TransformerConfig) -> list[int | None]:
    chunks = config.virtual_pipeline_model_parallel_size
    return [None] if chunks is None else list(range(chunks))


def _chunk(
    architecture: Architecture,
    config: TransformerConfig,
    platform: Platform,
    stage: int | None,
    padded_vocabulary: int,
    weights: WeightMap,
) -> GPTModel:
    layers = block_spec(config, platform, architecture.family, stage)
    chunk = GPTModel(
        config=config,
        transformer_layer_spec=layers,
        vocab_size=padded_vocabulary,
        max_sequence_length=int(architecture.hf.get("max_position_embeddings", 4096)),
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
        share_embeddings_and_output_weights=weights.tied,
        position_embedding_type="rope",
        rotary_percent=architecture.rotary.share,
        vp_stage=stage,
    )
    own = [*chunk.decoder.layers]
    if weights.mtp and chunk.post_process:
        chunk.mtp_layer = MtpLayer(config, predicting_layer_spec(config, architecture.family, layers), stage)
        own.append(chunk.mtp_layer.transformer_layer)
    # Megatron's own know one scaling of the four, with fixed numbers.
    latent = architecture.family.latent  # whose layers turn keys themselves
    for module in [layer.self_attention for layer in own] if latent else [chunk]:
        module.rotary_pos_emb.inv_freq = frequencies(architecture.rotary, int(architecture.hf["head_dim"]))
    follow_microbatches(chunk)
    return chunk.to(platform.device)


def _put_heads(bare: list[GPTModel], config: TransformerConfig, platform: Platform, head: Head) -> None:
    """Replace the output layer that GPTModel made, on the last stage."""
    for chunk in bare:
        if chunk.post_process and head is Head.value:
            chunk.output_layer = ValueHead(config).to(platform.device)
        elif chunk.post_process:
            chunk.output_layer = OutputLayer(chunk.output_layer)


def _wrap(inner: list[Any], config: TransformerConfig, spec: TrainerSpec) -> list[Any]:
    options: dict[str, Any] = {
        "grad_reduce_in_fp32": True,
        "use_distributed_optimizer": spec.trainer.distributed_optimizer,
        **spec.trainer.ddp,
    }
    try:
        ddp_config = DistributedDataParallelConfig(**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"Megatron refuses trainer.ddp: {error}") from error
    return [
        # Only the first chunk's reduction is worth cutting into buckets that overlap with the backward pass.
        DistributedDataParallel(config=config, ddp_config=ddp_config, module=chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(inner)
    ]

"""Which module stands where in a transformer layer: Transformer Engine's where it is installed, ours elsewhere."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.ssm.gated_delta_net import GatedDeltaNetSubmodules
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from rlscale.families import Family
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model.attention import PackedAttention, PackedSelfAttention
from rlscale.trainer.megatron.model.expert_router import RoutedLayer, Router
from rlscale.trainer.megatron.model.layers import (
    ColumnGroupedLinear,
    Experts,
    GatedMLP,
    NormColumnParallelLinear,
    NormedRowParallelLinear,
    RMSNorm,
    RowGroupedLinear,
    WholeLinear,
)
from rlscale.trainer.megatron.model.packed_delta_net import PackedGatedDeltaNet
from rlscale.trainer.megatron.model.packed_latent_attention import PackedLatentAttention


def uses_transformer_engine(platform: Platform, dtype: torch.dtype, family: Family) -> bool:
    """Whether Transformer Engine's layers are used for a model of that type; checkpoints do not depend on it.

    Only in 16 bits: in float32 none of its attentions takes packed sequences.
    """
    if not family.of_transformer_engine:
        return False
    installed = importlib.util.find_spec("transformer_engine") is not None
    return platform.is_cuda and dtype is not torch.float32 and installed


def block_spec(config: TransformerConfig, platform: Platform, family: Family, vp_stage: int | None) -> Any:
    """The layers of this rank's model chunk."""
    if uses_transformer_engine(platform, config.params_dtype, family):
        spec = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
        for layer in spec.layer_specs:
            if layer.submodules.mlp.module is MoELayer:
                layer.submodules.mlp.module = RoutedLayer
                layer.submodules.mlp.submodules.router = Router
                layer.submodules.mlp.submodules.experts.module = Experts
        return spec
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    own = range(first, first + get_num_layers_to_build(config, vp_stage=vp_stage))
    specs = [_layer(config, family, _has_experts(config, layer), _has_delta_net(config, layer)) for layer in own]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=RMSNorm)


def predicting_layer_spec(config: TransformerConfig, family: Family, layers: Any) -> Any:
    """The decoder layer of what predicts a token further, by the `block_spec` of the last stage: as the last of those,
    but with attention where others have gated delta nets."""
    return _layer(config, family, experts=True, delta_net=False) if family.delta_net else layers.layer_specs[-1]


def _has_experts(config: TransformerConfig, layer: int) -> bool:
    """Whether a layer (from 0, over the whole model) has experts."""
    if config.num_moe_experts is None:
        return False
    every = config.moe_layer_freq
    return bool(every[layer]) if isinstance(every, list) else layer % every == 0


def _has_delta_net(config: TransformerConfig, layer: int) -> bool:
    """Whether a layer (from 0, over the whole model) has a gated delta net instead of attention."""
    every = config.linear_attention_freq
    return isinstance(every, list) and bool(every[layer])


def _layer(config: TransformerConfig, family: Family, experts: bool, delta_net: bool) -> ModuleSpec:
    row = NormedRowParallelLinear if family.norms_behind else RowParallelLinear
    attention = _latent_attention() if family.latent else _self_attention(config, row)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm if family.latent else IdentityOp,
            self_attention=_delta_net() if delta_net else attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm if experts else IdentityOp,
            mlp=_experts(config) if experts else _dense(row),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _self_attention(config: TransformerConfig, row: type[RowParallelLinear]) -> ModuleSpec:
    norm = RMSNorm if config.qk_layernorm else IdentityOp
    submodules = SelfAttentionSubmodules(
        linear_qkv=NormColumnParallelLinear,
        core_attention=PackedAttention,
        linear_proj=row,
        q_layernorm=norm,
        k_layernorm=norm,
    )
    return ModuleSpec(PackedSelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=submodules)


def _delta_net() -> ModuleSpec:
    submodules = GatedDeltaNetSubmodules(
        in_proj=NormColumnParallelLinear,
        out_norm=ModuleSpec(RMSNorm, params={"zero_centred": False}),  # alone among the model's norms
        out_proj=RowParallelLinear,
    )
    return ModuleSpec(PackedGatedDeltaNet, submodules=submodules)


def _latent_attention() -> ModuleSpec:
    submodules = MLASelfAttentionSubmodules(
        linear_q_down_proj=WholeLinear,
        linear_q_up_proj=NormColumnParallelLinear,
        linear_kv_down_proj=WholeLinear,
        linear_kv_up_proj=NormColumnParallelLinear,
        core_attention=PackedAttention,
        linear_proj=RowParallelLinear,
    )
    return ModuleSpec(PackedLatentAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=submodules)


def _dense(row: type[RowParallelLinear]) -> ModuleSpec:
    return ModuleSpec(module=GatedMLP, submodules=MLPSubmodules(linear_fc1=NormColumnParallelLinear, linear_fc2=row))


def _experts(config: TransformerConfig) -> ModuleSpec:
    linears = MLPSubmodules(linear_fc1=ColumnGroupedLinear, linear_fc2=RowGroupedLinear)
    shared = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    experts = MoESubmodules(
        experts=ModuleSpec(module=Experts, submodules=linears),
        router=Router,
        shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=shared)
        if config.moe_shared_expert_intermediate_size
        else None,
    )
    return ModuleSpec(module=RoutedLayer, submodules=experts)

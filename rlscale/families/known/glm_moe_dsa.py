"""GLM-5, 5.1 and 5.2. Source: transformers' configuration_glm_moe_dsa.py and modeling_glm_moe_dsa.py (5.12)."""

from __future__ import annotations

from rlscale.families import latent_attention, sparse_attention
from rlscale.families.decoder import KEYS
from rlscale.families.expert_rules import keys_behind_dense
from rlscale.families.family import Family, Key, Kind
from rlscale.families.known.deepseek_v3 import (
    ENGINE_ALONE,
    ENGINE_READS,
    MEGATRON,
    RESTRICTIONS,
    RULES,
    routing_is_said,
)
from rlscale.families.multi_token_prediction import MTP
from rlscale.families.reach import of_choice
from rlscale.families.restrictions import dense_layers_are_said_alike, no_mlp_bias

FAMILY = Family(
    model_type="glm_moe_dsa",
    keys={
        **KEYS,
        **latent_attention.KEYS,
        **sparse_attention.KEYS,
        "q_lora_rank": Key(Kind.size, 2048, null=True, null_is_none=True, defines=True),
        "qk_nope_head_dim": Key(Kind.size, 192, defines=True),
        "v_head_dim": Key(Kind.size, 256, defines=True),
        "head_dim": Key(Kind.size, null=True),
        "intermediate_size": Key(Kind.size, 12_288, defines=True),
        "num_key_value_heads": Key(Kind.size, 64, null=True, defines=True),
        "rms_norm_eps": Key(Kind.fraction, 1e-5, defines=True),
        "max_position_embeddings": Key(Kind.size, 202_752),
        "mlp_bias": Key(Kind.flag, False, defines=True),
        **keys_behind_dense(
            n_routed_experts=256,
            num_experts_per_tok=8,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
            routed_scaling_factor=2.5,
        ),
        "num_experts": Key(Kind.size, most=10_000),  # which transformers writes and nobody reads
        "mlp_layer_types": Key(Kind.texts, null=True),
        "topk_method": Key(Kind.text, null=True),
        "scoring_func": Key(Kind.text, null=True),
        "moe_layer_freq": Key(Kind.size, null=True),
        "pretraining_tp": Key(Kind.size, 1, null=True),
    },
    rules=RULES,
    language_class="GlmMoeDsaForCausalLM",
    value_class=None,
    sglang_module="glm4_moe",
    engine_reads=(*ENGINE_READS, *sparse_attention.ENGINE_READS),
    engine_alone=ENGINE_ALONE,
    restrictions=(
        *RESTRICTIONS,
        routing_is_said,
        dense_layers_are_said_alike,
        sparse_attention.indexers_are_said_alike,
        no_mlp_bias,
    ),
    megatron=MEGATRON,
    experts=True,
    latent=True,
    reach=of_choice,
    sparse=True,
    carried=sparse_attention.INDEXERS,
    mtp=MTP,
)

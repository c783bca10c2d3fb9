"""GLM-4.7-Flash. Source: transformers' configuration_glm4_moe_lite.py and modeling_glm4_moe_lite.py (5.12)."""

from __future__ import annotations

from functools import partial

from rlscale.families import latent_attention
from rlscale.families.decoder import KEYS
from rlscale.families.expert_rules import keys_behind_dense
from rlscale.families.family import Family, Key, Kind
from rlscale.families.known.deepseek_v3 import ENGINE_ALONE, MEGATRON, RESTRICTIONS, RULES
from rlscale.families.multi_token_prediction import MTP
from rlscale.families.restrictions import dense_layers_are_said_alike

FAMILY = Family(
    model_type="glm4_moe_lite",
    keys={
        **KEYS,
        **latent_attention.KEYS,
        "q_lora_rank": Key(Kind.size, 768, null=True, null_is_none=True, defines=True),
        "qk_nope_head_dim": Key(Kind.size, 192, defines=True),
        "v_head_dim": Key(Kind.size, 256, defines=True),
        "head_dim": Key(Kind.size, null=True),
        "intermediate_size": Key(Kind.size, 10_240, defines=True),
        "num_key_value_heads": Key(Kind.size, 20, null=True, defines=True),
        "rms_norm_eps": Key(Kind.fraction, 1e-5, defines=True),
        "max_position_embeddings": Key(Kind.size, 202_752),
        **keys_behind_dense(
            n_routed_experts=64, num_experts_per_tok=4, moe_intermediate_size=1536, routed_scaling_factor=1.8
        ),
        "first_k_dense_replace": Key(Kind.count, needed=True, defines=True),
        "mlp_layer_types": Key(Kind.texts, null=True),
        "pretraining_tp": Key(Kind.size, 1, null=True),
    },
    rules=RULES,
    language_class="Glm4MoeLiteForCausalLM",
    value_class=None,
    sglang_module="glm4_moe_lite",
    engine_reads=("first_k_dense_replace",),
    engine_alone=ENGINE_ALONE,
    restrictions=(*RESTRICTIONS, partial(dense_layers_are_said_alike, usual=1)),
    megatron=MEGATRON,
    experts=True,
    latent=True,
    mtp=MTP,
)

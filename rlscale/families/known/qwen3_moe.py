"""Qwen3's mixture of experts. Source: transformers' configuration_qwen3_moe.py and modeling_qwen3_moe.py (5.12)."""

from __future__ import annotations

from rlscale.families.expert_rules import EXPERTS
from rlscale.families.family import Family, Key, Kind
from rlscale.families.known.qwen3 import COMMON, MEGATRON, RESTRICTIONS, RULES, TOKENIZERS
from rlscale.families.megatron_options import softmax_experts
from rlscale.families.reach import of_windows
from rlscale.families.restrictions import experts_in_every_layer, normalised_routing

FAMILY = Family(
    model_type="qwen3_moe",
    keys={
        **COMMON,
        "intermediate_size": Key(Kind.size, 6144),
        "num_key_value_heads": Key(Kind.size, 4, defines=True),
        "head_dim": Key(Kind.size, null=True, defines=True),
        "num_experts": Key(Kind.size, needed=True, defines=True, most=10_000),
        "num_local_experts": Key(Kind.size, most=10_000),
        "num_experts_per_tok": Key(Kind.size, needed=True, defines=True),
        "moe_intermediate_size": Key(Kind.size, needed=True, defines=True),
        "norm_topk_prob": Key(Kind.flag, False, defines=True),
        "decoder_sparse_step": Key(Kind.count, 1, defines=True),
        "mlp_only_layers": Key(Kind.numbers, (), null=True, defines=True),
        "output_router_logits": Key(Kind.flag, False),
        "router_aux_loss_coef": Key(Kind.number, 0.001),
    },
    rules=(*RULES, *EXPERTS),
    language_class="Qwen3MoeForCausalLM",
    value_class="Qwen3MoeForTokenClassification",
    sglang_module="qwen3_moe",
    engine_alone={"dual_chunk_attention_config": None},
    restrictions=(*RESTRICTIONS, experts_in_every_layer, normalised_routing),
    megatron=(*MEGATRON, softmax_experts),
    adapters=True,
    experts=True,
    tokenizer_classes=TOKENIZERS,
    reach=of_windows,
)

"""Overrides that make the plain recipe's model a mixture of experts."""

from __future__ import annotations

ARCHITECTURE = "model.create.architecture"
MOE = (
    f"{ARCHITECTURE}.model_type=qwen3_moe",
    f"{ARCHITECTURE}.num_experts=8",
    f"{ARCHITECTURE}.num_experts_per_tok=2",
    f"{ARCHITECTURE}.moe_intermediate_size=64",
    f"{ARCHITECTURE}.norm_topk_prob=true",
)

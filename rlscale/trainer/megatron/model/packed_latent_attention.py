"""Multi-head latent attention over packed sequences: Megatron's parameters under its names, our own forward.

Megatron's own makes the rotary angles anew in every layer, segment by segment. Its down projections are Transformer
Engine's, or are split over tensor-parallel ranks, which then lose the other ranks' gradient of the rotary part of keys.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules, MultiLatentAttention
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_config import MLATransformerConfig
from torch import Tensor

from rlscale.platform.elementwise import rotate
from rlscale.trainer.megatron.batch.sequences import PackedSequences
from rlscale.trainer.megatron.model.attention import attend


class PackedLatentAttention(MultiLatentAttention):
    """Causal latent attention with compressed queries, for packed sequences only."""

    def __init__(
        self,
        config: MLATransformerConfig,
        submodules: MLASelfAttentionSubmodules,
        layer_number: int,
        attn_mask_type: Any,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups()
        super().__init__(config, submodules, layer_number, attn_mask_type, "self", cp_comm_type, groups)
        heads, keys = config.num_attention_heads, config.qk_head_dim + config.qk_pos_emb_head_dim
        common: dict[str, Any] = {"config": config, "init_method": config.init_method, "bias": False}
        split = {**common, "gather_output": False, "skip_bias_add": False, "is_expert": False, "tp_group": groups.tp}
        self.linear_q_down_proj = build_module(
            submodules.linear_q_down_proj, config.hidden_size, config.q_lora_rank, **common
        )
        self.linear_q_up_proj = build_module(submodules.linear_q_up_proj, config.q_lora_rank, heads * keys, **split)
        compressed = config.kv_lora_rank + config.qk_pos_emb_head_dim
        self.linear_kv_down_proj = build_module(
            submodules.linear_kv_down_proj, config.hidden_size, compressed, **common
        )
        expanded = heads * (config.qk_head_dim + config.v_head_dim)
        self.linear_kv_up_proj = build_module(submodules.linear_kv_up_proj, config.kv_lora_rank, expanded, **split)

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        """[tokens (of this rank), 1, hidden] -> the same."""
        sequences: PackedSequences | None = options.get("packed_seq_params")
        if sequences is None:
            raise ValueError("this attention takes packed sequences only")
        query, key, value = self.get_query_key_value_tensors(hidden_states, packed_seq_params=sequences)
        attended = attend(self, query, key, value, sequences)
        output: tuple[Tensor, Tensor | None] = self.linear_proj(attended.view(attended.shape[0], 1, -1))
        return output

    def get_query_key_value_tensors(
        self, hidden_states: Tensor, key_value_states: Any = None, *, packed_seq_params: PackedSequences, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[tokens, 1, hidden] -> query and key [tokens, heads of this rank, qk size], value [tokens, heads, v size]."""
        config, heads = self.config, self.num_attention_heads_per_partition
        turned = config.qk_pos_emb_head_dim
        query, _ = self.linear_q_up_proj(self.linear_q_down_proj(hidden_states))
        compressed, shared_key = self.linear_kv_down_proj(hidden_states).split([config.kv_lora_rank, turned], dim=-1)
        key_value, _ = self.linear_kv_up_proj(compressed.contiguous())
        if config.sequence_parallel:
            shared_key = gather_from_sequence_parallel_region(shared_key.contiguous(), group=self.pg_collection.tp)
        query_plain, query_turned = query.view(-1, heads, self.q_head_dim).split([config.qk_head_dim, turned], dim=-1)
        key_plain, value = key_value.view(-1, heads, config.qk_head_dim + config.v_head_dim).split(
            [config.qk_head_dim, config.v_head_dim], dim=-1
        )
        cosine, sine = self._rotary(packed_seq_params, query.dtype)
        query_turned = rotate(query_turned, cosine, sine, neighbours=True)
        shared_key = rotate(shared_key, cosine, sine, neighbours=True).expand(-1, heads, -1)
        return torch.cat([query_plain, query_turned], -1), torch.cat([key_plain, shared_key], -1), value

    def _rotary(self, sequences: PackedSequences, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of this rank's tokens, made in a model's first layer."""
        known = sequences.rotary.get(id(self.config))
        if known is None:
            frequencies = self.rotary_pos_emb.inv_freq.to(sequences.positions.device)
            angles = (sequences.positions[:, None].float() * frequencies)[:, None]
            known = sequences.rotary[id(self.config)] = angles.cos().to(dtype), angles.sin().to(dtype)
        return known

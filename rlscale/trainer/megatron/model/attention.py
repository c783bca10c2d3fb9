"""Causal self-attention over packed sequences, without Transformer Engine.

Segments of similar length attend in one call of torch's attention; with context parallelism keys and values are
gathered first. Where `takes_packed` says so, torch's variable-length flash attention takes the packed tokens as they
are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform.elementwise import rotate
from rlscale.trainer.megatron.batch.sequences import PackedSequences


def takes_packed(config: TransformerConfig, device: torch.device) -> bool:
    """Whether torch's variable-length flash attention is used: CUDA, 16 bits, no dropout, all keys on this rank."""
    sixteen_bits = config.params_dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and sixteen_bits and not config.attention_dropout and config.context_parallel_size == 1


class PackedSelfAttention(SelfAttention):
    """Megatron's self-attention with a forward for packed sequences only; same parameters, same names.

    Megatron's own forward computes the rotary cosines anew in every layer and segment by segment; here they are made
    once per micro-batch and model from the positions.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        inference_context: Any = None,
        rotary_pos_emb: Tensor | None = None,
        rotary_pos_cos: Tensor | None = None,
        rotary_pos_sin: Tensor | None = None,
        rotary_pos_cos_sin: Tensor | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSequences | None = None,
        sequence_len_offset: int | None = None,
        *,
        inference_params: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        """[tokens (of this rank), 1, hidden] -> the same. `rotary_pos_emb`: angles [positions, 1, 1, dimension]."""
        if packed_seq_params is None or rotary_pos_emb is None:
            raise ValueError("this attention takes packed sequences with rotary positions only")
        gated = self.config.attention_output_gate
        projected = self.get_query_key_value_tensors(hidden_states, output_gate=gated)
        query, key, value, *gate = (x.squeeze(1) for x in projected)
        neighbours = self.config.rotary_interleaved
        rotary = packed_seq_params.rotary.get(id(self.config))
        if rotary is None:
            # Megatron has every angle twice: one half after the other, or neighbours.
            once = slice(0, None, 2) if neighbours else slice(rotary_pos_emb.shape[-1] // 2)
            angles = rotary_pos_emb[:, 0, :, once][packed_seq_params.positions]
            rotary = angles.cos().to(query.dtype), angles.sin().to(query.dtype)
            packed_seq_params.rotary[id(self.config)] = rotary
        query, key = (rotate(x, *rotary, neighbours=neighbours) for x in (query, key))
        attended = attend(self, query, key, value, packed_seq_params)
        if gated:
            attended = attended * torch.sigmoid(gate[0].reshape(attended.shape))
        output: tuple[Tensor, Tensor | None] = self.linear_proj(attended.view(attended.shape[0], 1, -1))
        return output


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
    """What the core of an attention module makes of [tokens, heads, d] each; computed again in the backward pass if
    the module says so.
    """

    def core(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended: Tensor = attention.core_attention(query, key, value, None, packed_seq_params=sequences)
        return attended

    if attention.checkpoint_core_attention and attention.training:
        again: Tensor = tensor_parallel.checkpoint(core, False, query, key, value)
        return again
    return core(query, key, value)


class PackedAttention(MegatronModule):
    """softmax(Q K^T / sqrt(d)) V within each segment, grouped heads. Takes the place of TEDotProductAttention."""

    whole: Callable[[Tensor, Tensor, Tensor, float | None], Tensor] | None = None
    """Another attention to segments that are whole: query, key, value [segments, heads, tokens, d] and the scale."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        groups = pg_collection if hasattr(pg_collection, "cp") else None
        self.context_group = groups.cp if groups is not None else parallel_state.get_context_parallel_group()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSequences,
    ) -> Tensor:
        """query [tokens, heads, d], key [tokens, key heads, d], value [tokens, key heads, e] -> [tokens, heads * e]."""
        if takes_packed(self.config, query.device):
            return self._varlen(query, key, value, packed_seq_params)
        if self.context_group.size() > 1:
            key = gather_from_sequence_parallel_region(key.contiguous(), group=self.context_group)
            value = gather_from_sequence_parallel_region(value.contiguous(), group=self.context_group)
        outputs = []
        for batch in packed_seq_params.batches:
            segments = batch.take(query, batch.queries), batch.take(key, batch.keys), batch.take(value, batch.keys)
            attended = self.whole(*segments, self.scale) if self.whole else self._attended(*segments, batch.mask)
            outputs.append(attended.transpose(1, 2).reshape(batch.queries.numel(), -1))
        together = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        restore = packed_seq_params.restore
        return together if restore is None else together.index_select(0, restore)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=query.shape[1] != key.shape[1],
        )

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        longest, size = sequences.max_seqlen_q, value.shape[-1]
        attended = varlen_attn(
            query.contiguous(),
            key.contiguous(),
            F.pad(value, (0, key.shape[-1] - size)).contiguous(),  # flash attention has one size of heads
            sequences.cu_seqlens_q,
            sequences.cu_seqlens_kv,
            longest,
            longest,
            scale=self.scale,
            window_size=(-1, 0),  # all tokens to the left, none to the right
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended[..., :size].reshape(query.shape[0], -1)

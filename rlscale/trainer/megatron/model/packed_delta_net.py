"""A gated delta net over packed sequences: Megatron's parameters under its names, our own forward.

Megatron's own refuses packed sequences, and without the package fla to be built at all.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.ssm.gated_delta_net import GatedDeltaNet
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform.gated_delta_rule import causal_convolution, gated_delta_rule, unit_length
from rlscale.trainer.megatron.batch.sequences import PackedSequences


class PackedGatedDeltaNet(GatedDeltaNet):
    """A gated delta net for packed sequences only, whose filters and states start anew with each of them."""

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        """[tokens (of this rank), 1, hidden] -> the same."""
        sequences: PackedSequences | None = options.get("packed_seq_params")
        if sequences is None:
            raise ValueError("this gated delta net takes packed sequences only")
        projected, _ = self.in_proj(hidden_states)
        keys, values, heads = (size // self.tp_size for size in (self.qk_dim, self.v_dim, self.num_value_heads))
        mixed, gate, share, stay = projected.squeeze(1).split([2 * keys + values, values, heads, heads], dim=-1)
        # Filters and lengths in float32, as engines compute them: 16 bits would round after each tap, and whole keys.
        filtered = causal_convolution(mixed.float(), self.conv1d.weight.float(), sequences.positions)
        mixed = F.silu(filtered).to(mixed.dtype)
        query, key, value = mixed.split([keys, keys, values], dim=-1)
        # In float32 also the logarithm, whose exponential 16 bits would round.
        log_decay = -self.A_log.float().exp() * F.softplus(stay.float() + self.dt_bias.float())
        read = self._read(
            self._unit_vectors(query, heads),
            self._unit_vectors(key, heads),
            value.view(-1, heads, self.value_head_dim),
            log_decay,
            share.sigmoid(),
            sequences,
        )
        normed = self.out_norm(read.to(value.dtype))
        gated = normed * F.silu(gate.view(-1, heads, self.value_head_dim).float())
        output: tuple[Tensor, Tensor | None] = self.out_proj(gated.to(value.dtype).view(len(gated), 1, -1))
        return output

    def _unit_vectors(self, x: Tensor, heads: int) -> Tensor:
        """[tokens, key heads * key size] -> [tokens, heads, key size]: each for the value heads that share it."""
        own = unit_length(x.float().view(len(x), -1, self.key_head_dim))
        return own.repeat_interleave(heads // own.shape[1], dim=1)

    def _read(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        share: Tensor,
        sequences: PackedSequences,
    ) -> Tensor:
        """The delta rule within each segment: [tokens, heads, size] and [tokens, heads] -> [tokens, heads, value size].

        Segments of similar length go together, as in attention: what fills up a shorter one lies behind its tokens.
        """
        outputs = []
        for batch in sequences.batches:
            q, k, v, decay, added = (
                batch.take(x, batch.queries) for x in (query, key, value, log_decay.unsqueeze(-1), share.unsqueeze(-1))
            )
            read, _ = gated_delta_rule(q, k, v, decay.squeeze(-1), added.squeeze(-1))
            outputs.append(read.transpose(1, 2).flatten(0, 1))
        together = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return together if sequences.restore is None else together.index_select(0, sequences.restore)

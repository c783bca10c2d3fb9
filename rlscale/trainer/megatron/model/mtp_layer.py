"""The layer that predicts a token further (multi-token prediction), behind the model's own layers on the last stage.

Megatron's block of such layers is part of GPTModel's forward: it makes whole logits, rolls labels by communication and
hands its gradient to the trunk. Here the layer stands beside the decoder, and `steps.mtp_loss` calls it.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from rlscale.trainer.megatron.batch.sequences import PackedSequences
from rlscale.trainer.megatron.model.layers import RMSNorm, WholeLinear


class MtpLayer(MegatronModule):
    """Parameters under the names of Megatron's MultiTokenPredictionLayer; a forward for packed sequences."""

    def __init__(self, config: TransformerConfig, layer: ModuleSpec, vp_stage: int | None) -> None:
        """`layer`: what a decoder layer is made of."""
        super().__init__(config=config)
        size, eps = config.hidden_size, config.layernorm_epsilon
        self.enorm, self.hnorm = RMSNorm(config, size, eps), RMSNorm(config, size, eps)
        self.eh_proj = WholeLinear(2 * size, size, config=config, init_method=config.init_method, bias=False)
        before = get_transformer_layer_offset(config, vp_stage=vp_stage)  # which the layer adds to its number
        self.transformer_layer: Any = build_module(
            layer, config=config, layer_number=config.num_layers + 1 - before, vp_stage=vp_stage
        )
        self.final_layernorm = RMSNorm(config, size, eps)

    def forward(self, hidden: Tensor, embedded: Tensor, sequences: PackedSequences, angles: Tensor | None) -> Tensor:
        """What the model makes of tokens, and the embeddings of those behind them -> what predicts the second one.

        Shapes: [tokens of this rank, 1, hidden] each. `angles`: rotary positions, as GPTModel gives them to layers.
        """
        together = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))

        def layer(hidden: Tensor) -> Tensor:
            output: Tensor = self.transformer_layer(
                hidden_states=hidden, attention_mask=None, rotary_pos_emb=angles, packed_seq_params=sequences
            )[0]
            return output

        if self.config.recompute_granularity == "full" and self.training:
            # What is computed again passes a gradient on only if its input has one: eh_proj may be frozen.
            together = together if together.requires_grad else together.requires_grad_()
            return self.final_layernorm(tensor_parallel.checkpoint(layer, False, together))
        return self.final_layernorm(layer(together))


def rotary_angles(chunk: GPTModel, sequences: PackedSequences) -> Tensor | None:
    """The angles of positions that GPTModel gives to its layers; None where they make their own (latent attention)."""
    if chunk.config.multi_latent_attention:
        return None
    length = chunk.rotary_pos_emb.get_rotary_seq_len(None, chunk.decoder, None, chunk.config, sequences)
    angles: Tensor = chunk.rotary_pos_emb(length, packed_seq=True, cp_group=sequences.cp_group)
    return angles

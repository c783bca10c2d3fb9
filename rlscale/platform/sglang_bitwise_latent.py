"""Multi-head latent attention of an engine in the trainer's form: keys and values of every head, whole, in its cache.

SGLang keeps the compressed form and attends to it, with the up-projection in the query and in the output: the same
function in another order, which rounds otherwise. Here the up-projection is computed once for each token, as by the
trainer, and its result is kept. The cache takes more for it: heads x (query + value size) numbers of a token and layer,
in the place of its compressed form's few hundred.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from rlscale.platform import batch_invariant


def adapt() -> None:
    """Change SGLang's latent attention in this process; its modules are imported by now or later."""
    for name, change in ADAPTATIONS.items():
        change(importlib.import_module(name))


def whole_cache(module: Any) -> None:
    """sglang.srt.configs.model_config: what the cache holds of a token, as of a model with ordinary attention."""
    model = module.ModelConfig
    original = model._derive_model_shapes

    def derive(self: Any) -> None:
        original(self)
        self.attention_arch = module.AttentionArch.MHA
        self.head_dim = self.swa_head_dim = self.qk_nope_head_dim + self.qk_rope_head_dim
        self.swa_v_head_dim = self.v_head_dim

    model._derive_model_shapes = derive


def whole_keys(module: Any) -> None:
    """sglang.srt.models.deepseek_common.attention_backend_handler: prefill and decode by the form for prefill."""
    whole = module.AttnForwardMethod.MHA
    module.AttentionBackendRegistry.register("torch_native", lambda attention, batch: whole)


def attention(module: Any) -> None:
    """sglang.srt.models.deepseek_v2: keys and values go to the cache, and the compressed form does not. Its down
    projections are two products, as of the trainer's two weights; a router's logits are float32, as the trainer's.
    """

    def core(self: Any, query: Tensor, key: Tensor, value: Tensor, batch: Any, gate: Tensor | None = None) -> Tensor:
        attended = self.attn_mha(query, key, value, batch, save_kv_cache=True)
        output: Tensor = self.o_proj(attended.reshape(len(query), -1))[0]
        return output

    def down(self: Any, hidden: Tensor, batch: Any) -> Tensor:
        weight = self.fused_qkv_a_proj_with_mqa.weight
        parts = weight.split([self.q_lora_rank, len(weight) - self.q_lora_rank])
        return torch.cat([batch_invariant.linear(hidden, part) for part in parts], -1)

    def logits(self: Any, hidden: Tensor, *unused: Any, **options: Any) -> Tensor:
        return batch_invariant.linear(hidden.float(), self.weight.float())

    latent = module.DeepseekV2AttentionMLA
    latent.forward_normal_core, latent.prepare_qkv_latent = core, down
    latent._set_mla_kv_buffer = lambda self, *parts: None
    module.MoEGate.forward = logits


ADAPTATIONS = {
    "sglang.srt.configs.model_config": whole_cache,
    "sglang.srt.models.deepseek_common.attention_backend_handler": whole_keys,
    "sglang.srt.models.deepseek_v2": attention,
}
"""Module -> what is changed in it."""

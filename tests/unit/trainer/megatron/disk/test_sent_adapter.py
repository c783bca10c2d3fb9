"""The adapter as engines get it."""

from __future__ import annotations

import torch

from rlscale.families.config_file import complete
from rlscale.trainer.megatron.disk.sent_adapter import with_siblings

MODEL = {
    "model_type": "qwen3",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def test_linears_that_engines_put_together_with_an_adapted_one_get_zeros_and_no_others() -> None:
    layer = "base_model.model.model.layers.1"
    given = {
        f"{layer}.self_attn.k_proj.lora_A.weight": torch.ones(3, 8),
        f"{layer}.self_attn.k_proj.lora_B.weight": torch.ones(4, 3),
        f"{layer}.mlp.down_proj.lora_A.weight": torch.ones(3, 12),
        f"{layer}.mlp.down_proj.lora_B.weight": torch.ones(8, 3),
    }
    whole = with_siblings(given, complete(MODEL))
    added = {name: tensor for name, tensor in whole.items() if name not in given}
    assert {name: tuple(tensor.shape) for name, tensor in added.items()} == {
        f"{layer}.self_attn.q_proj.lora_A.weight": (3, 8),
        f"{layer}.self_attn.q_proj.lora_B.weight": (8, 3),
        f"{layer}.self_attn.v_proj.lora_A.weight": (3, 8),
        f"{layer}.self_attn.v_proj.lora_B.weight": (4, 3),
    }
    assert not any(tensor.any() for tensor in added.values())
    assert all(whole[name] is tensor for name, tensor in given.items())

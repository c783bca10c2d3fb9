"""The engine of `run.bitwise`: what it replaces in SGLang is there to be replaced."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import pytest

from rlscale.platform import sglang_bitwise, sglang_bitwise_latent

LAYER = ["self", "x"]
NORM = [*LAYER, "residual"]
PRODUCT = ["self", "layer", "x", "bias"]
EXPERTS = ["self", "layer", "dispatch_output"]
ROTARY = ["self", "positions", "query", "key"]

SCALED = ["final_hidden_states *= self.routed_scaling_factor\n"]

TARGETS = {
    "sglang.srt.layers.activation": {"SiluAndMul.forward_native": LAYER, "SiluAndMul.forward_cpu": LAYER},
    "sglang.srt.layers.layernorm": {"RMSNorm.forward_native": NORM, "RMSNorm.forward_cpu": NORM},
    "sglang.srt.layers.logits_processor": {
        "LogitsProcessor._compute_lm_head": ["self", "hidden_states", "lm_head", "embedding_bias"]
    },
    "sglang.srt.layers.moe.topk": {"select_experts": ["hidden_states", "router_logits", "topk_config"]},
    "sglang.srt.layers.quantization.unquant": {
        "UnquantizedLinearMethod.apply": PRODUCT,
        "UnquantizedFusedMoEMethod.forward_cpu": EXPERTS,
    },
    "sglang.srt.layers.sampler": {
        "Sampler.forward": ["self", "logits_output", "sampling_info", "return_logprob", "top_logprobs_nums"]
    },
    "sglang.srt.layers.rotary_embedding.base": {
        "RotaryEmbedding.forward_native": ROTARY,
        "RotaryEmbedding.forward_cpu": ROTARY,
    },
    "sglang.srt.layers.rotary_embedding.rope_variant": {"DeepseekScalingRotaryEmbedding.forward_native": ROTARY},
    "sglang.srt.configs.model_config": {"ModelConfig._derive_model_shapes": ["self"]},
    "sglang.srt.models.deepseek_common.attention_backend_handler": {
        "AttentionBackendRegistry.register": ["cls", "backend_name", "handler_func"]
    },
    "sglang.srt.models.deepseek_common.attention_forward_methods.forward_mha": {
        "DeepseekMHAForwardMixin.forward_normal_core": ["self", "q", "k", "v", "forward_batch", "gate"],
        "DeepseekMHAForwardMixin._set_mla_kv_buffer": ["self", "latent_cache", "kv_a", "k_pe", "forward_batch"],
    },
    "sglang.srt.models.deepseek_v2": {
        "DeepseekV2AttentionMLA.prepare_qkv_latent": ["self", "hidden_states", "forward_batch"],
        "MoEGate.forward": ["self", "hidden_states"],
        "DeepseekV2MoE.__init__": ["self", "config", "layer_id"],
    },
    "sglang.srt.models.glm4_moe": {"Glm4MoeSparseMoeBlock.__init__": ["self", "config", "layer_id"]},
    "sglang.srt.models.glm4_moe_lite": {"Glm4MoeLiteSparseMoeBlock.__init__": ["self", "config", "layer_id"]},
}
"""Module -> what is replaced in it, and the parameters that it is called with first."""

READ = {
    "sglang.srt.layers.activation": [],
    "sglang.srt.layers.layernorm": ["        self.variance_epsilon = eps\n"],
    "sglang.srt.layers.logits_processor": [
        "        self.vocab_size = config.vocab_size\n",
        "    next_token_logprobs: Optional[torch.Tensor] = None\n",
        "    next_token_sampling_mask_idx: Optional[List[Optional[List[int]]]] = None\n",
        "    next_token_sampling_logprobs: Optional[List[Optional[float]]] = None\n",
    ],
    "sglang.srt.layers.moe.topk": [
        "    correction_bias: Optional[torch.Tensor] = None\n",
        "    apply_routed_scaling_factor_on_output: bool = False\n",
        '    scoring_func: str = "softmax"\n',
        "class StandardTopKOutput(NamedTuple):\n",
    ],
    "sglang.srt.layers.quantization.unquant": ["layer.w13_weight", "layer.w2_weight"],
    "sglang.srt.layers.sampler": [
        "                logits.div_(sampling_info.temperatures)\n",
        "                masks.append(row_ids)\n                logprobs.append(float(selected_logprobs_cpu[i]))\n",
        "                masks.append(None)\n                logprobs.append(None)\n",
        "        logits_output.next_token_sampling_mask_idx = masks\n"
        "        logits_output.next_token_sampling_logprobs = logprobs\n",
    ],
    "sglang.srt.layers.rotary_embedding.base": ["        self.is_neox_style = is_neox_style\n"],
    "sglang.srt.layers.rotary_embedding.rope_variant": ["class DeepseekScalingRotaryEmbedding(RotaryEmbedding):\n"],
    "sglang.srt.configs.model_config": [
        "            self.attention_arch = AttentionArch.MLA\n            self.kv_lora_rank",
        "            self.v_head_dim = self.hf_text_config.v_head_dim\n",
    ],
    "sglang.srt.models.deepseek_common.attention_backend_handler": ["    AttnForwardMethod,\n"],
    "sglang.srt.models.deepseek_common.attention_forward_methods.forward_mha": [
        "        self._set_mla_kv_buffer(latent_cache, kv_a, k_pe, forward_batch)\n",
        "        kv = self.kv_b_proj(kv_a)[0]\n",
    ],
    "sglang.srt.models.deepseek_v2": [
        "self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim,\n                bias=False",
        "            num_kv_heads=self.num_local_heads,\n",
        "            return self.forward_normal_core(*inner_state)\n",
        *SCALED,
    ],
    "sglang.srt.models.glm4_moe": ["        self.topk = TopK(\n", *SCALED],
    "sglang.srt.models.glm4_moe_lite": ["        self.topk = TopK(\n", *SCALED],
}
"""Module -> what replacements read of it or rely on."""


def source(module: str) -> str:
    file = str(importlib.metadata.distribution("sglang").locate_file(module.replace(".", "/") + ".py"))
    return Path(file).read_text(encoding="utf-8")


def parameters(text: str) -> dict[str, list[str]]:
    """Of the functions and methods of a module, by their names."""
    found = {}
    for node in ast.parse(text).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for one in inside:
            if isinstance(one, ast.FunctionDef):
                name = f"{node.name}.{one.name}" if isinstance(node, ast.ClassDef) else one.name
                found[name] = [each.arg for each in one.args.args]
    return found


@pytest.mark.parametrize("module", TARGETS)
def test_what_is_replaced_is_there_and_called_with_the_same(module: str) -> None:
    text = source(module)
    there = parameters(text)
    for name, given in TARGETS[module].items():
        assert there.get(name, [])[: len(given)] == given, (
            f"{module} no longer has {name}({', '.join(given)}, ...), which rlscale/platform/sglang_bitwise.py replaces"
        )
    for snippet in READ[module]:
        assert snippet in text, (
            f"{module} no longer has {snippet!r}, which rlscale/platform/sglang_bitwise.py relies on"
        )


def test_every_adapted_module_is_among_those() -> None:
    layers = {module for module, _ in sglang_bitwise.SCALED_CHOICES.values()}
    adapted = sglang_bitwise.ADAPTATIONS.keys() | sglang_bitwise_latent.ADAPTATIONS.keys() | layers
    inherited = {"sglang.srt.models.deepseek_common.attention_forward_methods.forward_mha"}
    assert adapted | sglang_bitwise.ROTARY.keys() | inherited == TARGETS.keys() == READ.keys()

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
    "sglang.srt.models.glm4_moe": {"Glm4MoeSparseMoeBlock.__init__": ["self", "config", "layer_id"]},
}
"""Module -> what is replaced in it, and the parameters that it is called with first."""

READ = {
    "sglang.srt.layers.activation": [],
    "sglang.srt.layers.layernorm": ["        self.variance_epsilon = eps\n"],
    "sglang.srt.layers.logits_processor": [
        "        self.vocab_size = config.vocab_size\n",
        "    next_token_logprobs: Optional[torch.Tensor] = None\n",
    ],
    "sglang.srt.layers.moe.topk": [
        "    correction_bias: Optional[torch.Tensor] = None\n",
        "    apply_routed_scaling_factor_on_output: bool = False\n",
        '    scoring_func: str = "softmax"\n',
        "class StandardTopKOutput(NamedTuple):\n",
    ],
    "sglang.srt.layers.quantization.unquant": ["layer.w13_weight", "layer.w2_weight"],
    "sglang.srt.layers.sampler": ["                logits.div_(sampling_info.temperatures)\n"],
    "sglang.srt.layers.rotary_embedding.base": ["        self.is_neox_style = is_neox_style\n"],
    "sglang.srt.models.glm4_moe": [
        "        self.topk = TopK(\n",
        "final_hidden_states *= self.routed_scaling_factor\n",
    ],
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
    models = {f"sglang.srt.models.{name}" for name in sglang_bitwise.OF_MODELS}
    positions = {"sglang.srt.layers.rotary_embedding.base"}
    assert sglang_bitwise.ADAPTATIONS.keys() | models | positions == TARGETS.keys() == READ.keys()

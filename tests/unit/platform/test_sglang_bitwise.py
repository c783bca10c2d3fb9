"""The engine of `run.bitwise`: its choice of experts is Megatron's, and what it replaces is there to be replaced."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from torch import Tensor

from rlscale.platform import sglang_bitwise

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


def choice(**given: Any) -> Any:
    """SGLang's TopKConfig, by what is read of it."""
    plain = {
        "scoring_func": "softmax",
        "use_grouped_topk": False,
        "correction_bias": None,
        "renormalize": True,
        "apply_routed_scaling_factor_on_output": False,
        "routed_scaling_factor": None,
    }
    return SimpleNamespace(**plain | given)


BIAS = 0.3 * torch.randn(32, generator=torch.Generator().manual_seed(1))

SOFTMAX = (choice(), {})
SHARES = (choice(renormalize=False), {"use_pre_softmax": True})
SIGMOID = (choice(scoring_func="sigmoid"), {"score_function": "sigmoid"})
SCALED = (
    choice(
        use_grouped_topk=True,
        correction_bias=BIAS,
        apply_routed_scaling_factor_on_output=True,
        routed_scaling_factor=2.5,
    ),
    {"score_function": "sigmoid", "expert_bias": BIAS, "scaling_factor": 2.5},
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("topk", [1, 4])
@pytest.mark.parametrize(
    ("served", "trained"), [SOFTMAX, SHARES, SIGMOID, SCALED], ids=["softmax", "shares", "sigmoid", "bias and factor"]
)
def test_weights_of_chosen_experts_are_megatrons_bit_for_bit_from_the_best_to_the_last(
    served: Any, trained: dict[str, Any], topk: int, dtype: torch.dtype
) -> None:
    logits = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    logits = logits if trained.get("score_function") else logits.to(dtype)  # those of a sigmoid are float32
    wanted, chosen = topk_routing_with_score_function(logits, topk, **trained)
    numbers = chosen.nonzero()[:, 1].view(40, topk)  # in the order of the experts, as an engine may name them
    weights, ordered = sglang_bitwise.choice_weights(logits, numbers, served)
    assert torch.equal(torch.zeros_like(wanted).scatter(1, ordered, weights.to(wanted.dtype)), wanted)
    assert torch.equal(ordered.sort(1).values, numbers)
    deciding: Tensor = logits if served.correction_bias is None else logits.sigmoid() + served.correction_bias
    falling = deciding.gather(1, ordered)
    assert (falling[:, :-1] >= falling[:, 1:]).all()

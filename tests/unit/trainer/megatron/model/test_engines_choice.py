"""The engine of `run.bitwise` weighs the experts that it chose as Megatron's router does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from torch import Tensor

from rlscale.platform import sglang_bitwise


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

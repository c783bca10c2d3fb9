"""Which products a machine is asked about before a run computes with equal bits."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rlscale.config.errors import UserError
from rlscale.platform import batch_invariant, invariant_products
from rlscale.trainer.megatron.model.expert_router import Router
from rlscale.trainer.megatron.model.invariant_layers import _ask_machine, _products


def router(scores: str) -> Router:
    """A router's weight in 16 bits, without the groups of ranks that Megatron's constructor asks for."""
    made = Router.__new__(Router)
    nn.Module.__init__(made)
    made.weight = nn.Parameter(torch.zeros(32, 16, dtype=torch.bfloat16))
    made.config = SimpleNamespace(moe_router_score_function=scores)
    return made


def chunk(scores: str, words: int) -> Any:
    made: Any = nn.Module()
    made.embedding = nn.Embedding(words, 16, dtype=torch.bfloat16)
    made.output_layer = nn.Linear(16, words, bias=False, dtype=torch.bfloat16)
    made.decoder = nn.ModuleList([router(scores), nn.Linear(16, 48, dtype=torch.bfloat16)])
    made.config = SimpleNamespace(num_attention_heads=4, num_query_groups=2, kv_channels=8, params_dtype=torch.bfloat16)
    return made


@pytest.mark.parametrize(("scores", "routed"), [("sigmoid", torch.float32), ("softmax", torch.bfloat16)])
@pytest.mark.parametrize(("words", "blocks"), [(9000, {4096, 808}), (8192, {4096}), (100, {100}), (1, {1})])
def test_the_head_is_asked_about_by_blocks_and_the_router_in_the_type_of_its_product(
    scores: str, routed: torch.dtype, words: int, blocks: set[int]
) -> None:
    asked = {*_products(chunk(scores, words))}
    of_words = {(block, 16, torch.bfloat16) for block in blocks}
    assert asked == of_words | {(32, 16, routed), (48, 16, torch.bfloat16)}


@pytest.mark.parametrize(
    ("asked", "question", "said"),
    [
        (invariant_products, "rows_are_independent", "a row of a product with a weight of"),
        (
            batch_invariant,
            "attention_is_independent",
            "the attention of a token has other bits beside other tokens",
        ),
    ],
)
def test_a_machine_that_says_no_is_refused(
    asked: ModuleType, question: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ask_machine(chunk("softmax", 100))
    monkeypatch.setattr(asked, question, lambda *shape: False)
    with pytest.raises(UserError, match=f"run.bitwise=true: on this machine {said}"):
        _ask_machine(chunk("softmax", 100))


@pytest.mark.parametrize(("latent", "values"), [({}, 8), ({"v_head_dim": 24}, 24)])
def test_attention_is_asked_about_with_values_as_wide_as_the_model_has_them(
    latent: dict[str, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, own = set(), batch_invariant.attention

    def seen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.add((query.shape[-1], key.shape[-1], value.shape[-1]))
        return own(query, key, value, *rest)

    monkeypatch.setattr(batch_invariant, "attention", seen)
    model = chunk("softmax", 100)
    vars(model.config).update(latent)
    _ask_machine(model)
    assert widths == {(8, 8, values)}

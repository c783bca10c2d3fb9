"""Sparse attention: which layers choose tokens, what of a folder is carried, and up to where it is dense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rlscale.families import FAMILIES, reach_of
from rlscale.families.config_file import complete, differences, problems
from rlscale.families.family import CHOOSING, SHARING, FolderError, Head, Reach
from rlscale.families.fit import check_weights
from rlscale.families.shrunk import shrunk
from rlscale.families.tensors import carried_tensors, is_kept
from tests.unit.families.folders import TINY, weights_of

SPARSE = TINY["glm_moe_dsa"]
WHOLE = complete(SPARSE)
INDEXER = "model.layers.{}.self_attn.indexer.wk.weight"


def said(changes: dict[str, Any]) -> list[str]:
    config = {key: value for key, value in {**SPARSE, **changes}.items() if value is not ...}
    return [*problems(config)] or [*FAMILIES["glm_moe_dsa"].unsupported(complete(config))]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"indexer_types": [CHOOSING, CHOOSING]},
            "indexer_types must be what index_topk_pattern, or else index",
        ),
        (
            {"indexer_types": [CHOOSING]},
            "indexer_types (or index_topk_pattern) must say full or shared for each of",
        ),
        (
            {"index_topk_pattern": "FSF"},
            "indexer_types (or index_topk_pattern) must say full or shared for each of",
        ),
        (
            {"index_topk_pattern": "FX"},
            "indexer_types (or index_topk_pattern) must say full or shared for each of",
        ),
        ({"index_topk_pattern": "SF"}, "indexer_types must say that the first layer has an indexer"),
        ({"index_topk_freq": 0}, "index_topk_freq=0: must be a whole number above 0"),
        ({"index_topk": 0}, "index_topk=0: must be a whole number above 0"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types with full_attention is not supported for glm_moe_dsa"),
        ({"mlp_layer_types": ["sparse"] * 2}, "first_k_dense_replace=1, which SGLang reads, and mlp_layer_types"),
        ({"topk_method": ...}, "topk_method is missing; SGLang reads it, and it must be noaux_tc"),
        ({"mlp_bias": True}, "mlp_bias=true is not supported for glm_moe_dsa"),
    ],
)
def test_what_the_trainer_or_an_engine_would_read_otherwise_is_one_line(changes: dict[str, Any], line: str) -> None:
    (found,) = said(changes)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("schedule", "letters"),
    [
        ({}, "FFFFFFFFFFFF"),
        # GLM-5.2, which says a head of 192, too: transformers takes the part that positions turn.
        (
            {"index_topk_freq": 4, "index_skip_topk_offset": 3, "index_topk_pattern": None, "head_dim": 192},
            "FFFSSSFSSSFS",
        ),
        ({"index_topk_freq": 3}, "FFSSFSSFSSFS"),
        ({"index_topk_pattern": "FSSFSSFSSFSS"}, "FSSFSSFSSFSS"),
    ],
)
def test_layers_that_choose_are_those_of_transformers(schedule: dict[str, Any], letters: str) -> None:
    given = {key: value for key, value in SPARSE.items() if not key.startswith("index_")} | schedule
    given |= {"num_hidden_layers": 12}
    assert list(problems(given)) == []
    whole = complete(given)
    assert whole["head_dim"] == SPARSE["qk_rope_head_dim"]
    assert whole["indexer_types"] == [{"F": CHOOSING, "S": SHARING}[letter] for letter in letters]
    theirs = transformers.AutoConfig.for_model(**given)
    assert theirs.indexer_types == whole["indexer_types"]
    assert differences(given, {**given, "indexer_types": theirs.indexer_types}) == []
    assert shrunk(whole)["indexer_types"] == whole["indexer_types"][:4]


def test_indexers_of_layers_that_choose_must_be_in_the_folder_and_are_kept(make: Callable[..., Path]) -> None:
    weights = weights_of(SPARSE)
    assert [name for name in carried_tensors(WHOLE) if name.endswith("wk.weight")] == [INDEXER.format(0)]
    assert all(is_kept(name, WHOLE) for name in carried_tensors(WHOLE))
    # Some folders have them in layers that share, too.
    more = {INDEXER.format(1): weights[INDEXER.format(0)]}
    check_weights(make(SPARSE, weights | more), WHOLE, Head.language)
    fewer = {name: tensor for name, tensor in weights.items() if name != INDEXER.format(0)}
    with pytest.raises(FolderError, match=r"has no tensor model\.layers\.0\.self_attn\.indexer\.wk\.weight"):
        check_weights(make(SPARSE, fewer, "fewer"), WHOLE, Head.language)
    other = weights | {INDEXER.format(0): weights[INDEXER.format(0)][:4]}
    with pytest.raises(FolderError, match=r"has shape \[4, 16\] .* where config.json asks for \[8, 16\]"):
        check_weights(make(SPARSE, other, "other"), WHOLE, Head.language)


def test_transformers_attends_to_all_tokens_up_to_the_limit_and_not_beyond() -> None:
    config = transformers.AutoConfig.for_model(**{**SPARSE, "initializer_range": 0.5})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.arange(16)[None]
    for attention in model.model.layers:
        if attention.self_attn.indexer is not None:
            attention.self_attn.indexer.index_topk = longest = 8
    with torch.no_grad():
        sparse = model(tokens).logits[0]
        for attention in model.model.layers:
            if attention.self_attn.indexer is not None:
                attention.self_attn.indexer.index_topk = 16
        difference = (model(tokens).logits[0] - sparse).abs().amax(-1)
    assert difference[:longest].max() < 1e-5  # rounding: some libraries sum other numbers of keys in another order
    assert difference[longest:].min() > 1e-3
    assert reach_of(WHOLE) == Reach(SPARSE["index_topk"], "index_topk")
    assert reach_of(complete(TINY["deepseek_v3"])) is None

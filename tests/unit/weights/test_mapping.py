"""Hugging Face -> Megatron -> Hugging Face is exact, whole and split over tensor-parallel ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlscale.families import FAMILIES
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.tensors import expected_tensors
from rlscale.weights.mapping import WeightMap
from tests.unit.families.folders import TINY

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 30,
    "hidden_size": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 6,
    "num_hidden_layers": 2,
}
WIDTH, INNER = 16, 24


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_round_trip_is_exact_for_any_number_of_ranks(family: str, ranks: int) -> None:
    config = complete({**TINY[family], "vocab_size": 30, "num_attention_heads": 8, "num_key_value_heads": 4})
    shapes, weights = expected_tensors(config, Head.language), WeightMap(config)
    rules = FAMILIES[family].rules_of(config)
    names = [rule.megatron.format(layer=rule.numbers(config)[-1], expert=3) for rule in rules]
    for name in (*names, "output_layer.weight"):
        tensors = [torch.randn(shapes[hf_name][0]) for hf_name in weights.hf_names(name)]
        full = weights.from_hf(name, tensors, -(-30 // ranks) * ranks)
        shards = [weights.shard(name, full, rank, ranks) for rank in range(ranks)]
        back = weights.to_hf(name, weights.merge(name, shards))
        assert [hf_name for hf_name, _ in back] == weights.hf_names(name)
        for (_, tensor), before in zip(back, tensors, strict=True):
            assert torch.equal(tensor, before), name


def test_each_rank_holds_whole_key_value_heads() -> None:
    weights = WeightMap(CONFIG)
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    q, k, v = (torch.arange(rows * WIDTH, dtype=torch.float32).view(rows, WIDTH) for rows in (48, 24, 24))
    shard = weights.shard(name, weights.from_hf(name, [q, k, -v]), rank=1, size=2)
    # The third key-value head comes first on the second rank: its two query heads, then its key and its value.
    assert torch.equal(shard[:12], q[24:36])
    assert torch.equal(shard[12:18], k[12:18])
    assert torch.equal(shard[18:24], -v[12:18])


def test_each_rank_holds_matching_rows_of_gate_and_up() -> None:
    weights = WeightMap(CONFIG)
    name = "decoder.layers.0.mlp.linear_fc1.weight"
    gate, up = torch.randn(INNER, WIDTH), torch.randn(INNER, WIDTH)
    shard = weights.shard(name, weights.from_hf(name, [gate, up]), rank=1, size=2)
    assert torch.equal(shard, torch.cat([gate[12:], up[12:]]))


def test_expert_and_layer_are_counted_apart() -> None:
    weights = WeightMap({**CONFIG, "model_type": "qwen3_moe"})
    assert weights.hf_names("decoder.layers.7.mlp.experts.linear_fc2.weight12") == [
        "model.layers.7.mlp.experts.12.down_proj.weight"
    ]


def test_tied_head_is_the_embedding_and_leaves_other_models_alone() -> None:
    tied, untied = WeightMap({**CONFIG, "tie_word_embeddings": True}), WeightMap(CONFIG)
    assert tied.hf_names("output_layer.weight") == ["model.embed_tokens.weight"]
    assert untied.hf_names("output_layer.weight") == ["lm_head.weight"]


def test_value_head_is_never_tied_and_may_be_missing() -> None:
    weights = WeightMap({**CONFIG, "tie_word_embeddings": True}, Head.value)
    assert not weights.tied
    assert weights.hf_names("output_layer.weight") == ["score.weight"]
    assert weights.hf_names("output_layer.bias") == ["score.bias"]
    assert weights.rule("output_layer.bias").optional
    assert not weights.rule("embedding.word_embeddings.weight").optional
    head = torch.randn(1, WIDTH)
    assert torch.equal(weights.shard("output_layer.weight", head, 1, 2), head)


def test_unknown_parameter_and_family_are_named() -> None:
    with pytest.raises(KeyError, match=r"decoder\.layers\.0\.mlp\.unheard\.weight"):
        WeightMap(CONFIG).rule("decoder.layers.0.mlp.unheard.weight")
    with pytest.raises(KeyError, match="gpt5"):
        WeightMap({**CONFIG, "model_type": "gpt5"})

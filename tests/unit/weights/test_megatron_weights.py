"""Which tensors of a model go into one bucket, and in which order."""

from __future__ import annotations

import torch
from torch import nn

from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.tensors import expected_tensors
from rlscale.weights.mapping import WeightMap
from rlscale.weights.megatron_weights import MegatronWeights
from rlscale.weights.parameters import ModelGroups
from tests.unit.families.folders import TINY


class Alone:
    """A process group of one."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def attention_of(config: dict[str, object]) -> nn.Module:
    """The parameters of latent attention of a model of one layer, in the order in which Megatron registers them."""
    weights, shapes = WeightMap(config), expected_tensors(config, Head.language)
    chunk, layer = nn.Module(), nn.Module()
    for path in ("linear_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj"):
        (name,) = weights.hf_names(f"decoder.layers.0.self_attention.{path}.weight")
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(shapes[name][0]))
        layer.add_module(path, module)
    block, decoder = nn.Module(), nn.Module()
    block.self_attention, block.layer_number = layer, 1
    decoder.layers, chunk.decoder = nn.ModuleList([block]), decoder
    return chunk


def test_what_an_engine_puts_together_is_in_one_bucket_however_small_buckets_are() -> None:
    config = complete({**TINY["deepseek_v3"], "num_hidden_layers": 1})
    chunk, alone = attention_of(config), Alone()
    source = MegatronWeights([chunk], WeightMap(config), ModelGroups(alone, alone, alone, alone), bucket_bytes=1)
    names = [[name.removeprefix("model.layers.0.self_attn.") for name, _ in b.named] for b in source.buckets(1)]
    assert names == [
        ["o_proj.weight"],
        ["q_a_proj.weight", "kv_a_proj_with_mqa.weight"],
        ["q_b_proj.weight"],
        ["kv_b_proj.weight"],
    ]

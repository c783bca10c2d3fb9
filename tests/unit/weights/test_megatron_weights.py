"""Which tensors of a model go into one bucket, and in which order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.tensors import expected_tensors
from rlscale.weights import megatron_weights
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


class SecondOfTwo:
    """A process group in which this is the second rank."""

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 1


def experts_of(config: dict[str, object], number: int) -> nn.Module:
    """The experts of a layer that the second of two ranks has, of a model of one layer of `number` experts."""
    shapes = expected_tensors(config, Head.language)
    up, down = (shapes[f"model.layers.0.mlp.experts.0.{name}.weight"][0] for name in ("gate_proj", "down_proj"))
    experts, mlp, block, decoder, chunk = (nn.Module() for _ in range(5))
    for name, shape in (("linear_fc1", (2 * up[0], up[1])), ("linear_fc2", down)):
        module = nn.Module()
        for local in range(number // 2):
            module.register_parameter(f"weight{local}", nn.Parameter(torch.full(shape, float(local + number // 2))))
        experts.add_module(name, module)
    mlp.experts, block.mlp, block.layer_number = experts, mlp, 1
    decoder.layers, chunk.decoder = nn.ModuleList([block]), decoder
    chunk.config = SimpleNamespace(num_moe_experts=number)
    return chunk


@pytest.mark.parametrize(("bucket_bytes", "collectives"), [(2**20, 1), (1, 8)])
def test_experts_are_gathered_together_as_far_as_a_bucket_holds_them(
    bucket_bytes: int, collectives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def both_ranks(tensor: torch.Tensor, group: object) -> list[torch.Tensor]:
        """The first rank has the experts of four numbers less."""
        calls.append(tensor.nbytes)
        return [tensor - 4, tensor]

    monkeypatch.setattr(megatron_weights, "_all_gather", both_ranks)
    config = complete({**TINY["qwen3_moe"], "num_hidden_layers": 1, "num_experts": 8})
    alone, two = Alone(), SecondOfTwo()
    source = MegatronWeights(
        [experts_of(config, 8)], WeightMap(config), ModelGroups(alone, two, alone, alone), bucket_bytes
    )
    found = {name: tensor for bucket in source.buckets(1) for name, tensor in bucket.named}
    assert len(calls) == collectives
    assert len(found) == 8 * 3
    for name, tensor in found.items():
        assert (tensor == int(name.split(".")[5])).all(), name

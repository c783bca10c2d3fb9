from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import DType
from rlscale.families.family import Head
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model.architecture import Architecture
from rlscale.trainer.megatron.steps.flops import ModelFlops, peak_flops, peak_of_name

DENSE: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "qk_head_dim": 4,
    "v_head_dim": 4,
}
EXPERTS = {"model_type": "qwen3_moe", "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
ATTENTION = 8 * 4 * (4 + 2 + 2 + 4)  # query, key, value and output projections
LENGTHS = np.array([3, 5])


def test_dense_model() -> None:
    flops = ModelFlops.of(Architecture(DENSE), Head.language)
    matrices = 2 * 2 * (ATTENTION + 3 * 8 * 16)  # two layers, two FLOPs
    pairs = 6 + 15
    assert flops.forward(LENGTHS, 4) == 8 * matrices + 4 * 2 * 8 * 100 + pairs * 4 * 2 * 4 * 4


def test_of_a_mixture_the_experts_that_a_token_visits_and_the_router_count() -> None:
    flops = ModelFlops.of(Architecture({**DENSE, **EXPERTS}), Head.language)
    assert flops.per_token == 2 * 2 * (ATTENTION + 2 * 3 * 8 * 6 + 8 * 8)


def test_a_gated_delta_net_costs_the_same_for_every_token() -> None:
    net = {"key_head_dim": 2, "value_head_dim": 3, "num_key_heads": 2, "num_value_heads": 4, "conv_kernel_dim": 4}
    hybrid = {
        **DENSE,
        **EXPERTS,
        "model_type": "qwen3_next",
        "shared_expert_intermediate_size": 5,
        "layer_types": ["linear_attention", "full_attention"],
        **{f"linear_{name}": size for name, size in net.items()},
    }
    flops = ModelFlops.of(Architecture(hybrid), Head.language)
    experts = 2 * 3 * 8 * 6 + 8 * 8 + 3 * 8 * 5 + 8  # two of them, the router, the shared one and its gate
    keys, values = 2 * 2, 4 * 3
    projections = 8 * (2 * keys + 2 * values + 2 * 4) + 8 * values + 4 * (2 * keys + values)
    gated_attention = 8 * 4 * (2 * 4 + 2 + 2 + 4)
    # Each of the heads' matrices of 2 by 3 is read, changed and read again.
    assert flops.per_token == 2 * (2 * experts + projections + gated_attention) + 3 * 2 * 4 * 2 * 3
    assert flops.per_pair == 2 * 4 * (4 + 4)


def test_a_layer_that_predicts_a_token_further_is_one_layer_and_one_projection_more() -> None:
    config = {
        **DENSE,
        **EXPERTS,
        "model_type": "glm4_moe",
        "attention_bias": False,
        "use_qk_norm": False,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    }
    alone, further = (ModelFlops.of(Architecture(config), Head.language, mtp=mtp) for mtp in (False, True))
    experts = (2 + 1) * 3 * 8 * 6 + 8 * 8  # two of them and the shared one, and the router
    assert further.per_token - alone.per_token == 2 * (ATTENTION + experts + 2 * 8 * 8)
    assert further.per_output == 2 * alone.per_output
    assert further.per_pair - alone.per_pair == alone.per_pair / 2


def test_a_critic_has_one_value_for_every_token() -> None:
    language = ModelFlops.of(Architecture(DENSE), Head.language)
    value = ModelFlops.of(Architecture(DENSE), Head.value)
    assert value.forward(LENGTHS, 0) - language.forward(LENGTHS, 0) == 8 * 2 * 8


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H20", 148),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
    ],
)
def test_gpus_are_known_by_the_name_that_cuda_gives_them(name: str, tflops: float) -> None:
    assert peak_of_name(name) == tflops * 1e12


def test_nobody_knows_what_a_cpu_can_do_unless_it_is_given() -> None:
    platform = Platform(torch.device("cpu"), "gloo")
    assert platform == Platform.of(Device.cpu)
    assert peak_flops(platform, DType.bfloat16, None) is None
    assert peak_flops(platform, DType.float32, 0.25) == 0.25e12
    assert peak_of_name("NVIDIA RTX A1000") is None

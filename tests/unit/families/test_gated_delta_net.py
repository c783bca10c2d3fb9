"""Configs of models with gated delta nets: which layers have one, and what engines would read otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.families import FAMILIES
from rlscale.families.config_file import complete, differences, problems
from rlscale.families.family import FULL, LINEAR, Head
from rlscale.families.tensors import expected_tensors, is_kept
from tests.unit.families.folders import TINY

NEXT = TINY["qwen3_next"]


def said(changes: dict[str, Any]) -> list[str]:
    config = {key: value for key, value in {**NEXT, **changes}.items() if value is not ...}
    return [*problems(config)] or [*FAMILIES["qwen3_next"].unsupported(complete(config))]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"full_attention_interval": ...}, "full_attention_interval is missing; SGLang reads it"),
        ({"layer_types": [FULL, LINEAR]}, "layer_types must be what full_attention_interval=2 says, which SGL"),
        ({"layer_types": [LINEAR, "sliding_attention"]}, "layer_types must be what full_attention_interval=2 says"),
        ({"layer_types": [FULL]}, "layer_types names 1 layers, but num_hidden_layers=2"),
        ({"linear_num_value_heads": 3}, "linear_num_value_heads=3 is not a multiple of linear_num_key_heads=2"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            "partial_rotary_factor=0.5 and rope_parameters.partial_rotary_factor=0.25 must be the same",
        ),
        ({"mlp_only_layers": [0]}, "dense layers between those with experts"),
        ({"attention_bias": True}, "attention_bias=true is not supported for qwen3_next"),
        ({"norm_topk_prob": False}, "norm_topk_prob=false (also where it is not given) is not supported"),
        ({"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size=0: must be a whole number above 0"),
    ],
)
def test_what_the_trainer_or_an_engine_would_compute_otherwise_is_one_line(changes: dict[str, Any], line: str) -> None:
    (found,) = said(changes)
    assert found.startswith(line)


def test_layers_are_named_by_the_interval_as_transformers_names_them() -> None:
    named = {**NEXT, "layer_types": [LINEAR, FULL]}
    assert said({"layer_types": named["layer_types"]}) == []
    assert complete(NEXT)["layer_types"] == [LINEAR, FULL]
    assert differences(NEXT, named) == []
    deep = complete({**NEXT, "num_hidden_layers": 4, "full_attention_interval": None})
    assert deep["layer_types"] == [LINEAR, LINEAR, LINEAR, FULL]
    names = expected_tensors(complete(NEXT), Head.language)
    assert [name for name in names if name.endswith(("A_log", "q_norm.weight"))] == [
        "model.layers.0.linear_attn.A_log",
        "model.layers.1.self_attn.q_norm.weight",
    ]


def test_the_module_that_predicts_further_tokens_is_kept() -> None:
    assert is_kept("mtp.fc.weight", NEXT)
    assert is_kept("mtp.layers.0.mlp.experts.3.up_proj.weight", NEXT)
    assert not is_kept("model.layers.2.input_layernorm.weight", NEXT)

"""Scalings of rotary positions are understood whole or refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.families import FAMILIES
from rlscale.families.config_file import complete, differences, problems
from tests.unit.families.folders import DENSE, TINY

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def refused(config: dict[str, Any]) -> list[str]:
    return [*problems(config)] or [*FAMILIES[config["model_type"]].unsupported(complete(config))]


@pytest.mark.parametrize(
    "rope", [YARN, LLAMA3, *({"type": kind, "factor": 2.0} for kind in ("linear", "dynamic")), {"rope_type": "default"}]
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_moe", "llama"])
def test_five_kinds_are_supported(family: str, rope: dict[str, Any]) -> None:
    assert refused({**TINY[family], "rope_scaling": rope}) == []


@pytest.mark.parametrize(
    ("rope", "line"),
    [
        ({"type": "dynamic"}, "rope_parameters.factor=None: must be a number above 0 with rope_type=dynamic"),
        ({"rope_type": "longrope", "long_factor": [1.0]}, "rope scaling of type longrope is not supported for qwen3"),
        ({"rope_type": "mine"}, "rope scaling of type mine is not supported for qwen3; only default, dynamic, li"),
        ({**YARN, "attention_factor": 1.3}, "rope_parameters.attention_factor is not supported for qwen3 with rope_ty"),
        ({**YARN, "attn_factor": 2.0}, "rope_parameters.attn_factor is not supported for qwen3 with rope_type=yarn"),
        (
            {"mrope_section": [1, 1, 1]},
            "rope_parameters.mrope_section is not supported for qwen3 with rope_type=default",
        ),
        ({"rope_type": "linear"}, "rope_parameters.factor=None: must be a number above 0 with rope_type=linear"),
        ({"rope_type": "linear", "factor": "2"}, "rope_parameters.factor=2: must be a number above 0"),
        ({"rope_type": "linear", "factor": 0.5}, "rope_parameters.factor=0.5: must be at least 1"),
        ({"rope_type": "llama3", "factor": 8.0}, "rope_parameters.low_freq_factor=None: must be a number above 0"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "rope_parameters.low_freq_factor=4.0: must be below high_freq_factor=4.0"),
        ({**YARN, "mscale": 1.0}, "rope_parameters.mscale and mscale_all_dim must be given both or not at all"),
        ({**YARN, "truncate": 1}, "rope_parameters.truncate=1: must be true or false"),
        ({"partial_rotary_factor": 0.0}, "rope_scaling.partial_rotary_factor=0.0: must be a number above 0"),
        (
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor is not supported for qwen3; only rotary positions of w",
        ),
    ],
)
def test_whatever_else_a_scaling_says_is_refused_by_name(rope: dict[str, Any], line: str) -> None:
    (found,) = refused({**DENSE, "head_dim": 8, "rope_scaling": rope})
    assert found.startswith(line)


def test_a_share_that_does_not_make_pairs_and_yarn_of_a_share_are_refused() -> None:
    (found,) = refused({**TINY["glm4"], "partial_rotary_factor": 0.4})
    assert found == "partial_rotary_factor=0.4 turns 3 of 8 numbers; must be pairs"
    (found,) = refused({**TINY["glm4"], "rope_scaling": YARN})
    assert found == "rope_type=yarn is not supported together with partial_rotary_factor=0.5"


def test_numbers_that_are_not_given_are_those_that_transformers_takes() -> None:
    spelled = {**YARN, "beta_fast": 32, "beta_slow": 1, "attention_factor": None}
    assert differences({**DENSE, "rope_scaling": YARN}, {**DENSE, "rope_scaling": spelled}) == []
    (line,) = differences(DENSE, {**DENSE, "rope_scaling": YARN})
    assert line.startswith("rope_parameters is {'rope_type': 'yarn', 'factor': 4.0,")

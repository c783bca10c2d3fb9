"""Frequencies of rotary positions are those of transformers, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rlscale.families.config_file import complete
from rlscale.families.rotary import Rotary
from rlscale.platform.elementwise import rotate
from rlscale.platform.rotary_frequencies import frequencies
from tests.unit.families.folders import DENSE, TINY

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 3.0},
        {**LLAMA3, "original_max_position_embeddings": 8192},
        {**LLAMA3, "factor": 32.0},
        {"rope_type": "yarn", "factor": 4.0},
        {"type": "yarn", "factor": 4, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2},
        {"rope_type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False},
    ],
)
@pytest.mark.parametrize("base", [1e4, 1e6])
def test_frequencies_and_magnitude_are_those_of_transformers(rope: dict[str, Any], base: float) -> None:
    given = {**DENSE, "head_dim": 32, "rope_theta": base, "rope_scaling": rope, "max_position_embeddings": 2048}
    config = transformers.AutoConfig.for_model(**{key: value for key, value in given.items() if key != "architectures"})
    theirs, magnitude = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu")
    rotary = Rotary.of(complete(given))
    assert torch.equal(frequencies(rotary, 32), theirs)
    assert rotary.magnitude == magnitude
    plain = frequencies(Rotary.of(complete({**DENSE, "rope_theta": base})), 32)
    assert not torch.equal(plain, theirs)


def test_dynamic_scaling_is_none_up_to_the_positions_of_the_model() -> None:
    given = {**DENSE, "head_dim": 32, "rope_theta": 1e4, "rope_scaling": {"type": "dynamic", "factor": 4.0}}
    config = transformers.AutoConfig.for_model(**{key: value for key, value in given.items() if key != "architectures"})
    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=config.max_position_embeddings)
    assert torch.equal(frequencies(Rotary.of(complete(given)), 32), theirs)
    longer, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=config.max_position_embeddings + 1)
    assert not torch.equal(longer, theirs)


def test_a_share_of_a_head_is_turned_in_pairs_of_neighbours_and_the_rest_stays() -> None:
    rotary = Rotary.of(complete(TINY["glm4"]))
    angles = frequencies(rotary, 8)[None, None] * 3
    x = torch.randn(1, 2, 8, dtype=torch.float64, requires_grad=True)
    turned = rotate(x, angles.double().cos(), angles.double().sin(), neighbours=True)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    expected = torch.view_as_complex(x[..., :4].unflatten(-1, (2, 2))) * torch.polar(torch.ones(2), angles[0, 0])
    torch.testing.assert_close(turned[..., :4], torch.view_as_real(expected).flatten(-2), rtol=0, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: rotate(x, angles.double().cos(), angles.double().sin(), True), x)

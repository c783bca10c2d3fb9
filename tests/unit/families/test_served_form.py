"""Which tensors are codes in an engine, what config.json says of it, and which models fit."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.families import FAMILIES
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.quantisation import quantisation_of
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.families.tensors import expected_tensors
from tests.unit.families.folders import TINY

BLOCK, INT4 = ServedForm(WeightForm.fp8_block), ServedForm(WeightForm.int4)
SERVED = ("llama", "qwen2", "qwen3", "qwen3_moe", "glm4", "glm4_moe")


def sized(model_type: str, **sizes: Any) -> dict[str, Any]:
    return complete({**TINY[model_type], **sizes})


@pytest.mark.parametrize("model_type", SERVED)
def test_every_projection_is_quantised_and_nothing_else(model_type: str) -> None:
    names = expected_tensors(complete(TINY[model_type]), Head.language)
    for name, (shape, _) in names.items():
        assert BLOCK.quantises(name) == ("_proj.weight" in name and len(shape) == 2), name
    assert sum(map(BLOCK.quantises, names)) > 6
    assert not any(map(ServedForm().quantises, names))


def test_config_says_which_matrices_stay_numbers() -> None:
    config = sized("qwen3_moe")
    kept = ["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in range(config["num_hidden_layers"]))]
    for form, key in ((BLOCK, "modules_to_not_convert"), (INT4, "ignore")):
        assert sorted(form.section(config)[key]) == sorted(kept)


@pytest.mark.parametrize("kind", [WeightForm.fp8_block, WeightForm.fp8_tensor, WeightForm.int4])
def test_the_section_of_config_reads_back_as_the_form(kind: WeightForm) -> None:
    form = ServedForm(kind, group=64)
    assert quantisation_of({"quantization_config": form.section(sized("qwen3"))}) == form.quantisation


def test_sizes_that_do_not_fit_are_named() -> None:
    fitting = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
    assert not list(BLOCK.problems(sized("qwen3", **fitting, num_key_value_heads=2)))
    for_one = list(BLOCK.problems(sized("qwen3", **fitting, num_key_value_heads=1)))
    assert for_one == [
        f"{name} has 64 rows on each rank of an engine, which 128 does not divide" for name in ("k_proj", "v_proj")
    ]
    narrow = sized("qwen3", **{**fitting, "hidden_size": 96})
    assert "q_proj has 96 columns on each rank of an engine, which 128 does not divide" in list(BLOCK.problems(narrow))
    assert not list(INT4.problems(narrow))
    assert not list(ServedForm(WeightForm.fp8_tensor).problems(narrow))
    groups = list(ServedForm(WeightForm.int4, group=128).problems(narrow))
    assert groups[0] == "q_proj has 96 columns on each rank of an engine, which 128 does not divide"


def test_ranks_of_an_engine_count() -> None:
    """What each rank holds must be whole blocks; key-value heads that are fewer than ranks are copied."""
    config = sized("qwen3", hidden_size=256, intermediate_size=512, num_attention_heads=8, head_dim=128)
    config["num_key_value_heads"] = 2
    assert not list(BLOCK.problems(config, 4))
    eight = list(BLOCK.problems(config, 8))
    assert [line.split()[0] for line in eight] == ["gate_proj", "up_proj", "down_proj"]


def test_experts_count_by_their_own_size() -> None:
    config = sized("qwen3_moe", hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    config["moe_intermediate_size"] = 192
    assert [line.split()[:3] for line in BLOCK.problems(config)] == [
        ["gate_proj", "has", "192"],
        ["up_proj", "has", "192"],
        ["down_proj", "has", "192"],
    ]


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.latent or family.delta_net])
def test_families_whose_attention_is_not_served_so_are_refused_by_name(model_type: str) -> None:
    (line,) = BLOCK.problems(complete(TINY[model_type]))
    assert line.startswith(f"a {model_type} is served as_trained only")

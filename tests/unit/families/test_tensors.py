"""Parameters and experts are counted from the family's tensors."""

from __future__ import annotations

from math import prod

import pytest

from rlscale.config.composition.locations import conf_dir
from rlscale.families.config_file import complete, read_json
from rlscale.families.tensors import carried_tensors, experts_of, parameter_count, visited_parameters

PUBLISHED = conf_dir() / "model"


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As the safetensors index of each model on the Hugging Face hub counts them, tied embeddings once.
    [
        ("qwen3_0_6b", 596_049_920),
        ("qwen3_1_7b", 1_720_574_976),
        ("qwen3_4b", 4_022_468_096),
        ("qwen3_8b", 8_190_735_360),
        ("qwen3_14b", 14_768_307_200),
        ("qwen3_32b", 32_762_123_264),
        ("qwen3_30b", 30_532_122_624),
        ("qwen3_235b", 235_093_634_560),
        ("qwen2_5_0_5b", 494_032_768),
        ("qwen2_5_1_5b", 1_543_714_304),
        ("qwen2_5_3b", 3_085_938_688),
        ("qwen2_5_7b", 7_615_616_512),
        ("qwen2_5_14b", 14_770_033_664),
        ("qwen2_5_32b", 32_763_876_352),
        ("qwen2_5_72b", 72_706_203_648),
        ("llama3_1b", 1_235_814_400),
        ("llama3_3b", 3_212_749_824),
        ("llama3_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
        ("llama3_405b", 405_853_388_800),
        ("glm4_9b", 9_400_279_040),
        ("glm4_32b", 32_566_081_536),
        # Without the biases of the routers, and the layer that predicts a second token (110,468,824,832 and
        # 358,337,791,296 with them).
        ("glm4_5_air", 106_852_245_504),
        # Without the module that predicts further tokens.
        ("qwen3_next_80b", 79_674_391_296),
        ("glm4_5", 352_797_814_784),
    ],
)
def test_parameters_are_those_of_the_published_model(name: str, parameters: int) -> None:
    architecture = complete(read_json(PUBLISHED / f"{name}.json"))
    assert parameter_count(architecture) == parameters


@pytest.mark.parametrize(
    ("name", "copied", "whole"),
    [("glm4_5_air", 2, 110_468_824_832), ("glm4_5", 2, 358_337_791_296), ("glm5_1", 0, 753_864_139_008)],
)
def test_the_layer_that_predicts_further_is_the_rest_of_the_published_model(name: str, copied: int, whole: int) -> None:
    """Whose index counts a bias for each expert of each layer, the layer's copies of embedding and head, if it has any,
    and GLM-5's indexers, of which the layer has one, too."""
    config = complete(read_json(PUBLISHED / f"{name}.json"))
    layers, sizes = config["num_hidden_layers"], config["vocab_size"] * config["hidden_size"]
    biases = config["num_experts"] * (layers - config["first_k_dense_replace"] + 1)
    indexers = sum(prod(shape) for shape, _ in carried_tensors(config).values()) * (layers + 1) // layers
    assert parameter_count(config, mtp=True) + biases + copied * sizes + indexers == whole


def test_so_is_the_module_of_qwen3_next() -> None:
    config = complete(read_json(PUBLISHED / "qwen3_next_80b.json"))
    assert parameter_count(config, mtp=True) == 81_324_862_720


@pytest.mark.parametrize(
    ("name", "parameters"),
    # layers x (projections of 128-wide query and key-value heads + MLP) + output projection; 8 of 128 experts, router.
    [
        ("qwen3_0_6b", 28 * (2 * 1024 * 128 * (16 + 8) + 3 * 1024 * 3072) + 151936 * 1024),
        ("qwen3_30b", 48 * (2 * 2048 * 128 * (32 + 4) + 8 * 3 * 2048 * 768 + 128 * 2048) + 151936 * 2048),
    ],
)
def test_a_token_visits_the_matrices_the_output_projection_and_its_own_experts(name: str, parameters: int) -> None:
    architecture = complete(read_json(PUBLISHED / f"{name}.json"))
    assert visited_parameters(architecture) == parameters


def test_a_dense_family_has_no_experts_whatever_its_config_says() -> None:
    assert experts_of({"model_type": "qwen3", "num_experts": 4}) == 0
    assert experts_of({"model_type": "qwen3_moe", "num_experts": 4}) == 4


def test_experts_are_counted_under_either_name_and_a_dense_model_has_none() -> None:
    assert experts_of({"num_experts": 8}) == experts_of({"num_local_experts": 8}) == 8
    assert experts_of({"hidden_size": 64}) == experts_of({"num_experts": 0}) == experts_of({"num_experts": None}) == 0

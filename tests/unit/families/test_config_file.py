"""config.json is read as transformers reads it, and whatever is wrong with it is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from rlscale.families import FAMILIES, FolderError
from rlscale.families.config_file import complete, differences, problems, read_config
from rlscale.families.family import Head
from tests.unit.families.folders import DENSE, EXPERTS, TINY

_SAME = ("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size", "hidden_act")

ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5.0},
    {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default"}},
    {"rope_theta": 5.0, "rope_scaling": {"type": "default"}},
    {"rope_scaling": {"rope_type": "default", "rope_theta": 9.0}, "rope_parameters": {"rope_theta": 7.0}},
    {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}},
]


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("config", [DENSE, EXPERTS])
def test_rotary_positions_are_those_of_transformers(
    config: dict[str, Any], rope: dict[str, Any], tmp_path: Path
) -> None:
    given = {**config, **rope}
    (tmp_path / "config.json").write_text(json.dumps(given))
    theirs, ours = transformers.AutoConfig.from_pretrained(tmp_path), complete(read_config(tmp_path))
    assert ours["rope_theta"] == theirs.rope_parameters["rope_theta"]
    assert ours["rope_parameters"]["rope_type"] == theirs.rope_parameters["rope_type"]


@pytest.mark.parametrize("config", [DENSE, EXPERTS])
def test_what_a_config_leaves_out_is_what_transformers_takes(config: dict[str, Any], tmp_path: Path) -> None:
    left_out = without(config, "head_dim", "num_key_value_heads") | {"num_attention_heads": 32, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(left_out))
    theirs, ours = transformers.AutoConfig.from_pretrained(tmp_path), complete(left_out)
    assert {key: ours[key] for key in _SAME} == {key: getattr(theirs, key) for key in _SAME}
    width = 128 if config is DENSE else 2  # a dense Qwen3 has its own; the mixture divides the hidden size
    assert ours["head_dim"] == getattr(theirs, "head_dim", None) or width == 64 // 32
    assert ours["head_dim"] == width


def test_experts_are_counted_under_either_name() -> None:
    moved = {**without(EXPERTS, "num_experts"), "num_local_experts": 4}
    assert complete(moved)["num_experts"] == complete(EXPERTS)["num_experts"] == 4
    assert differences(EXPERTS, moved) == []
    (line,) = problems({**EXPERTS, "num_local_experts": 8})
    assert line.startswith("num_experts=4 and num_local_experts=8 contradict each other")


@pytest.mark.parametrize("config", [DENSE, EXPERTS])
def test_completing_twice_is_completing_once(config: dict[str, Any]) -> None:
    once = complete({**config, "rope_scaling": {"type": "default"}})
    assert complete(once) == once
    assert list(problems(once)) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vocab_size": None}, "vocab_size must be given as a whole number above 0"),
        ({"hidden_size": "16"}, 'hidden_size="16": must be a whole number above 0'),
        ({"hidden_size": 16.0}, "hidden_size=16.0: must be a whole number above 0"),
        ({"hidden_size": True}, "hidden_size=true: must be a whole number above 0"),
        ({"hidden_size": 10**30}, "hidden_size=1" + 30 * "0" + ": is too large for any model"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000: is too large for any model"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of num_key_value_heads=3"),
        ({"head_dim": 0}, "head_dim=0: must be a whole number above 0"),
        ({"head_dim": None}, "head_dim=null: must be a whole number above 0; leave it out"),
        ({"head_dim": 5}, "head_dim=5: must be even"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=NaN: must be a number between 0 and 1"),
        ({"rms_norm_eps": 1e-60}, "rms_norm_eps=1e-60: must be a number between 0 and 1"),
        ({"rms_norm_eps": "1e-6"}, 'rms_norm_eps="1e-6": must be a number between 0 and 1'),
        ({"rms_norm_eps": None}, "rms_norm_eps=null: must be"),
        ({"rope_theta": None}, "rope_theta=null: must be a number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta=Infinity: must be a number above 0"),
        ({"rope_theta": 10**400}, "rope_theta=1000"),
        ({"rope_theta": "1e6"}, 'rope_theta="1e6": must be a number above 0'),
        ({"rope_parameters": {"rope_theta": None}}, "rope_parameters.rope_theta=null: must be a number above 0"),
        ({"rope_parameters": []}, "rope_parameters=[]: must be a mapping"),
        ({"rope_scaling": "default"}, 'rope_scaling="default": must be a mapping'),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention: positions that differ"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling.type=3: must be a text"),
        ({"tie_word_embeddings": "false"}, 'tie_word_embeddings="false": must be true or false'),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings=0: must be true or false"),
        ({"initializer_range": float("nan")}, "initializer_range=NaN: must be a number of at least 0"),
        ({"hidden_act": 1}, "hidden_act=1: must be a text"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers, but num_hidden_layers=2"),
        ({"layer_types": "full_attention"}, 'layer_types="full_attention": must be a list of texts'),
        ({"eos_token_id": []}, "eos_token_id=[]: must be a token id or a list of them"),
        ({"eos_token_id": -1}, "eos_token_id=-1: must be a token id or a list of them"),
        ({"model_type": ["qwen3"]}, "models of model_type=['qwen3'] are not supported"),
        ({"model_type": "gemma2"}, "models of model_type=gemma2 are not supported; supported families: "),
        ({"model_type": None}, "model_type is missing"),
    ],
)
def test_a_value_that_makes_no_model_is_one_line(changes: dict[str, Any], line: str) -> None:
    (found,) = problems({**DENSE, **changes})
    assert found.startswith(line)
    assert len(found) < 300
    assert "did you mean" not in found
    assert complete({**DENSE, **changes}) == {**DENSE, **changes}


def test_every_missing_size_is_named_at_once() -> None:
    for config in (DENSE, EXPERTS):
        (line,) = problems({"model_type": config["model_type"]})
        assert line.startswith("vocab_size, hidden_size, num_hidden_layers, num_attention_heads, ")
    assert list(problems(without(DENSE, "rms_norm_eps", "head_dim"))) == []
    heads = without(DENSE, "num_key_value_heads")
    assert "num_key_value_heads=32 (transformers' default, as it is not given)" in next(iter(problems(heads)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a mapping"),
        ("3", "is not a mapping"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000 + "]" * 100_000, "its brackets are nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "its brackets are nested too deeply"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FolderError, match=message) as error:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_a_folder_in_its_place_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(FolderError, match="not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(FolderError, match="cannot be read"):
        read_config(tmp_path)


def test_another_architecture_is_named_key_by_key_with_both_values() -> None:
    other = {**DENSE, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    assert differences(DENSE, other) == [
        "rms_norm_eps is 1e-05 there and 1e-06 here",
        "rope_theta is 1000000.0 there and 10000.0 here",
        "tie_word_embeddings is True there and False here",
    ]
    assert differences({**DENSE, "tie_word_embeddings": True}, DENSE, Head.value) == []
    assert differences(DENSE, EXPERTS) == ["model_type is qwen3_moe there and qwen3 here"]


def test_the_same_architecture_in_other_words_is_the_same() -> None:
    words = {
        "rope_theta": 10_000,
        "transformers_version": "4.51.0",
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 99,
        "hidden_act": "swish",
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
    }
    assert differences(DENSE, {**DENSE, **words}) == []
    assert differences(EXPERTS, {**EXPERTS, "mlp_only_layers": [], "intermediate_size": 99}) == []


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe_lite"])
def test_queries_that_are_not_compressed_are_refused_and_not_taken_for_the_default(name: str) -> None:
    config = complete({**TINY[name], "q_lora_rank": None})
    assert config["q_lora_rank"] is None
    assert list(FAMILIES[name].unsupported(config)) == [
        f"q_lora_rank=null is not supported for {name}; only queries that are compressed"
    ]
    assert complete({key: value for key, value in TINY[name].items() if key != "q_lora_rank"})["q_lora_rank"] > 0

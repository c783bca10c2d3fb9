"""Architectures are read as JSON and counted to the last parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.compose import compose
from rlscale.config.hf_architecture import experts_of, is_here, parameter_count, read_architecture, visited_parameters
from rlscale.config.schema.model_config import ModelConfig


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As the safetensors index of each model on the Hugging Face hub counts them, tied embeddings once.
    [("qwen3_0_6b", 596_049_920), ("qwen3_4b", 4_022_468_096), ("qwen3_30b", 30_532_122_624)],
)
def test_parameters_are_those_of_the_published_model(hf: Path, name: str, parameters: int) -> None:
    architecture = read_architecture(ModelConfig(name=name, path=str(hf / name)))
    assert architecture is not None
    assert parameter_count(architecture) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    # layers x (projections of 128-wide query and key-value heads + MLP) + output projection; 8 of 128 experts, router.
    [
        ("qwen3_0_6b", 28 * (2 * 1024 * 128 * (16 + 8) + 3 * 1024 * 3072) + 151936 * 1024),
        ("qwen3_30b", 48 * (2 * 2048 * 128 * (32 + 4) + 8 * 3 * 2048 * 768 + 128 * 2048) + 151936 * 2048),
    ],
)
def test_a_token_visits_the_matrices_the_output_projection_and_its_own_experts(
    hf: Path, name: str, parameters: int
) -> None:
    architecture = read_architecture(ModelConfig(name=name, path=str(hf / name)))
    assert architecture is not None
    assert visited_parameters(architecture) == parameters


def test_the_tiny_model_has_about_a_million_parameters() -> None:
    architecture = read_architecture(compose().model)
    assert architecture is not None
    assert 0.5e6 < parameter_count(architecture) < 2e6


def test_a_hub_model_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = ModelConfig(name="m", path="owner/name")
    assert read_architecture(model) is None
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    assert read_architecture(model) == {"model_type": "qwen3"}


def test_a_model_of_which_the_cache_has_the_config_alone_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert not is_here("owner/name", weights=False)
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert is_here("owner/name", weights=False)
    assert not is_here("owner/name")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").touch()
    assert not is_here("owner/name")
    (snapshot / "model-2.safetensors").touch()
    assert is_here("owner/name")


def test_a_dense_family_has_no_experts_whatever_its_config_says() -> None:
    assert experts_of({"model_type": "qwen3", "num_experts": 4}) == 0
    assert experts_of({"model_type": "qwen3_moe", "num_experts": 4}) == 4

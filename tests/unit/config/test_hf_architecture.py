"""Architectures are read as JSON and counted to the last parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.hf_architecture import is_here, read_architecture
from rlscale.config.schema.model_config import ModelConfig


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

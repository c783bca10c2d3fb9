"""Which model folders make the same Megatron model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.model.architecture import Architecture

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}


def read(folder: Path, **changes: Any) -> Architecture:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return Architecture.read(str(folder))


def test_folders_that_differ_in_words_only_make_the_same_model(tmp_path: Path) -> None:
    moved = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    other = read(tmp_path, transformers_version="5.0", architectures=["Qwen3ForCausalLM"], eos_token_id=3, **moved)
    assert read(tmp_path).same_as(other)


def test_the_dropout_of_pretraining_is_not_taken(tmp_path: Path) -> None:
    assert read(tmp_path).same_as(read(tmp_path, attention_dropout=0.1))


def test_what_megatron_cannot_be_given_is_refused_with_the_words_of_the_checks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: attention_bias=true is not supported for qwen3$"):
        read(tmp_path, attention_bias=True)


def test_folders_that_differ_in_a_size_do_not(tmp_path: Path) -> None:
    for name, value in {
        "num_hidden_layers": 3,
        "vocab_size": 65,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
    }.items():
        assert not read(tmp_path).same_as(read(tmp_path, **{name: value})), name

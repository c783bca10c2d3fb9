"""A folder holds the model of its config.json and nothing else, in numbers that are read as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from rlscale.families import FolderError
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.fit import check_weights
from rlscale.families.tensors import expected_tensors
from rlscale.families.weight_files import SINGLE
from tests.unit.families.folders import DENSE, EXPERTS, TINY, Weights, weights_of

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def check(folder: Path, config: dict[str, Any] = DENSE, head: Head = Head.language) -> None:
    check_weights(folder, complete(config), head)


def test_a_published_mixture_has_the_tensors_that_it_is_published_with() -> None:
    published = {
        **EXPERTS,
        "num_hidden_layers": 48,
        "num_experts": 128,
    }
    assert len(expected_tensors(complete(published), Head.language)) == 18_867  # Qwen3-30B-A3B's index


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float8_e4m3fn, "1 of 25 tensors are of type F8_E4M3"),
        (torch.int8, "1 of 25 tensors are of type I8"),
        (torch.float64, "1 of 25 tensors are of type F64"),
    ],
)
def test_codes_are_not_read_as_numbers(dtype: torch.dtype, message: str, make: Callable[..., Path]) -> None:
    folder = make()
    weights = {name: torch.from_numpy(array) for name, array in weights_of(DENSE).items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].to(dtype)
    save_torch(weights, folder / SINGLE)
    with pytest.raises(FolderError, match=f"{message} .first {name}., so its weights are quantised or are not"):
        check(folder)


@pytest.mark.parametrize("file", ["hf_quant_config.json", "quantize_config.json", "adapter_config.json"])
def test_a_file_that_says_that_the_weights_are_others_is_heeded(file: str, make: Callable[..., Path]) -> None:
    folder = make()
    (folder / file).write_text("{}")
    with pytest.raises(FolderError, match=rf"^{file} says that"):
        check(folder)


def test_tensors_without_a_place_are_counted_and_the_first_are_named(make: Callable[..., Path]) -> None:
    extra: Weights = {f"model.layers.{layer}.self_attn.q_proj.bias": np.ones(24, np.float32) for layer in range(2)}
    extra |= {f"model.layers.{layer}.mlp.gate_proj.weight_scale_inv": np.ones((1, 1), np.float32) for layer in range(2)}
    with pytest.raises(FolderError, match=r"4 of 29 tensors have no place in a qwen3 .*: \S+, \S+, \S+ and 1 more"):
        check(make(weights=weights_of(DENSE) | extra))


def test_rotary_frequencies_of_older_transformers_are_left_out(make: Callable[..., Path]) -> None:
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float64)}
    check(make(weights=weights_of(DENSE) | rotary))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (EMBEDDING, (18, 16)),  # as if rows of padding were missing
        (HEAD, (24, 16)),
        ("model.layers.1.self_attn.q_proj.weight", (16, 24)),
        ("model.layers.1.self_attn.k_proj.weight", (18, 16)),
        ("model.layers.0.mlp.gate_proj.weight", (31, 16)),  # together with up_proj of 33 it would have the right size
        ("model.layers.0.self_attn.q_norm.weight", (1, 6)),
    ],
)
def test_a_shape_that_only_looks_right_is_refused(name: str, shape: tuple[int, ...], make: Callable[..., Path]) -> None:
    weights = weights_of(DENSE) | {name: np.zeros(shape, np.float32)}
    if "gate_proj" in name:
        weights[name.replace("gate", "up")] = np.zeros((33, 16), np.float32)
    folder = make(weights=weights)
    with pytest.raises(FolderError, match=rf"^{name} has shape \[{shape[0]}.* in {SINGLE} where config.json asks for"):
        check(folder)
    with pytest.raises(RuntimeError):
        transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_a_missing_tensor_is_named(make: Callable[..., Path]) -> None:
    weights = weights_of(DENSE)
    del weights["model.layers.1.input_layernorm.weight"]
    with pytest.raises(FolderError, match=r"has no tensor model\.layers\.1\.input_layernorm\.weight, which a model"):
        check(make(weights=weights))
    untied = weights_of(DENSE)
    del untied[HEAD]
    with pytest.raises(FolderError, match=r"has no tensor lm_head\.weight"):
        check(make(weights=untied))


def test_more_layers_than_the_file_has_are_not_counted_through(make: Callable[..., Path]) -> None:
    with pytest.raises(FolderError, match=r"has no tensor model\.layers\.2\.input_layernorm\.weight, .* more, which"):
        check(make(), {**DENSE, "num_hidden_layers": 10_000})


def test_a_tied_model_may_repeat_its_embedding_but_not_have_another_head(make: Callable[..., Path]) -> None:
    tied = {**DENSE, "tie_word_embeddings": True}
    weights = weights_of(DENSE)
    check(make(tied, weights | {HEAD: weights[EMBEDDING]}), tied)
    with pytest.raises(FolderError, match=r"tie_word_embeddings=true, but lm_head\.weight is not model\.embed_tokens"):
        check(make(tied, weights), tied)


def test_a_critic_may_start_from_a_language_model_and_a_policy_not_from_a_critic(make: Callable[..., Path]) -> None:
    check(make(), head=Head.value)
    weights = weights_of(DENSE)
    del weights[HEAD]
    critic = make(weights=weights | {"score.weight": np.zeros((1, 16), np.float32)}, name="critic")
    check(critic, head=Head.value)
    with pytest.raises(FolderError, match=r"has no tensor lm_head\.weight"):
        check(critic)
    save_file(weights | {"score.weight": np.zeros((2, 16), np.float32)}, critic / SINGLE)
    with pytest.raises(FolderError, match=r"score\.weight has shape \[2, 16\]"):
        check(critic, head=Head.value)


@pytest.mark.parametrize(
    ("more", "less", "line"),
    [
        ({}, (), None),
        ({}, ("mtp.fc.weight",), r"has no tensor mtp\.fc\.weight, which a trained layer .* set trainer\.mtp=frozen"),
        ({"mtp.layers.1.mlp.gate.weight": (4, 16)}, (), r"mtp\.layers\.1\.mlp\.gate\.weight: .* of which there is one"),
        ({"mtp.fc.weight": (16, 16)}, (), r"mtp\.fc\.weight has shape \[16, 16\] .* asks for \[16, 32\]"),
    ],
)
def test_a_module_that_is_trained_is_whole_and_has_one_layer(
    more: dict[str, tuple[int, ...]], less: tuple[str, ...], line: str | None, make: Callable[..., Path]
) -> None:
    config = complete(TINY["qwen3_next"])
    whole = {name: shape for name, (shape, _) in expected_tensors(config, Head.language, mtp=True).items()}
    shapes = {name: shape for name, shape in (whole | more).items() if name not in less}
    folder = make(TINY["qwen3_next"], {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    check_weights(folder, config, Head.language)  # kept as it is, whatever it is
    with nullcontext() if line is None else pytest.raises(FolderError, match=line):
        check_weights(folder, config, Head.language, mtp=True)

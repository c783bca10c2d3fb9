"""Model folders: made by the project, or checked."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_torch

from rlscale.config.errors import UserError
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.model_folder import (
    ensure_model_folder,
    ensure_tokenizer_folder,
    find_served,
    read_chat_template,
)
from rlscale.data.tokens.prompt_encoder import load_tokenizer
from rlscale.families.config_file import complete, differences

SMALL = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def config(seed: int = 0, **architecture: object) -> ModelConfig:
    create = CreateModelConfig(architecture={**SMALL, **architecture}, characters="0123456789+=", seed=seed)
    return ModelConfig(name="small", create=create)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model_folder(config(), tmp_path_factory.mktemp("scratch"))


def test_a_made_folder_is_whole_and_kept(folder: Path) -> None:
    scratch = folder.parent.parent
    assert ensure_model_folder(config(), scratch) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_vocabulary_and_end_token_follow_from_the_characters(folder: Path) -> None:
    written = json.loads((folder / "config.json").read_text())
    assert written["vocab_size"] == 16
    assert written["eos_token_id"] == json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 3


def test_the_same_seed_makes_the_same_weights_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again, other = (ensure_model_folder(config(seed), tmp_path) for seed in (0, 1))
    first, same, different = (load_file(f / "model.safetensors") for f in (folder, again, other))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["model.embed_tokens.weight"], different["model.embed_tokens.weight"])
    assert other.name != again.name


@pytest.mark.parametrize("moved", [{"rope_theta": 5e5}, {"model_type": "qwen3_moe", "num_experts": 2}])
def test_a_made_config_says_everything_once_and_what_was_asked_for(moved: dict[str, object], tmp_path: Path) -> None:
    experts = {"num_experts_per_tok": 1, "moe_intermediate_size": 8, "norm_topk_prob": True}
    asked = {**SMALL, **moved, **(experts if "num_experts" in moved else {}), "vocab_size": 16}
    made = ensure_model_folder(config(**asked), tmp_path)
    written = json.loads((made / "config.json").read_text())
    assert not {"rope_theta", "rope_scaling", "num_experts"} & set(written)
    assert differences(asked, written) == []
    from transformers import AutoConfig  # which imports for a second

    theirs = AutoConfig.from_pretrained(made)
    assert theirs.rope_parameters["rope_theta"] == complete(written)["rope_theta"] == moved.get("rope_theta", 1e4)


def test_every_token_that_can_be_sampled_has_an_embedding(folder: Path) -> None:
    sizes = np.abs(load_file(folder / "model.safetensors")["model.embed_tokens.weight"]).max(axis=1)
    assert sizes.min() > 0.1 * sizes.max()


def test_making_a_model_leaves_the_random_state_of_torch_alone(tmp_path: Path) -> None:
    import torch

    before = torch.get_rng_state()
    ensure_model_folder(config(seed=3), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_tokenizer_has_one_token_per_character_and_a_short_chat_template(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    messages = [{"role": "user", "content": "47+38="}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert text == "47+38=<|im_start|>"
    assert tokens == [8, 11, 14, 7, 12, 15, 2]
    assert tokenizer.decode([9, 12, tokenizer.eos_token_id], skip_special_tokens=True) == "58"
    assert tokenizer(text + "58<|im_end|>").input_ids == [*tokens, 9, 12, 3]


def test_a_conversation_keeps_every_turn_apart(folder: Path) -> None:
    turns = [("system", "0"), ("user", "1"), ("assistant", "2"), ("user", "3")]
    text = load_tokenizer(folder).apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False, add_generation_prompt=True
    )
    assert text == "0<|im_end|>1<|im_start|>2<|im_end|>3<|im_start|>"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"model_type": "no_such_type"},
            "models of model_type=no_such_type are not supported",
        ),
        ({"vocab_size": 10}, "vocab_size=10 is under the 16 tokens"),
        ({"vocab_size": "many"}, 'vocab_size="many": must be a whole number above 0'),
        ({"initializer_range": float("nan")}, "initializer_range=NaN: must be a number of at least 0"),
        ({"hidden_size": None}, "hidden_size must be given as a whole number above 0"),
    ],
)
def test_an_impossible_architecture_is_refused_and_leaves_nothing(
    tmp_path: Path, broken: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ensure_model_folder(config(**broken), tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def copy(folder: Path, target: Path, without: str) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        if file.name != without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", r"no weights \(\*.safetensors\)"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(folder: Path, tmp_path: Path, without: str, message: str) -> None:
    broken = copy(folder, tmp_path / "model", without)
    with pytest.raises(UserError, match=message):
        ensure_model_folder(ModelConfig(name="m", path=str(broken)), tmp_path)


def test_quantised_weights_are_not_read_as_numbers(folder: Path, tmp_path: Path) -> None:
    import torch

    quantised = copy(folder, tmp_path / "model", "none")
    said = json.loads((quantised / "config.json").read_text())
    method = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (quantised / "config.json").write_text(json.dumps({**said, "quantization_config": method}))
    with pytest.raises(UserError, match=r"^model\.path=\S+: quantization_config says .* but none of its tensors is;"):
        ensure_model_folder(ModelConfig(name="m", path=str(quantised)), tmp_path)
    (quantised / "config.json").write_text(json.dumps(said))  # as some tools leave it
    weights = {name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name], weights[f"{name}_scale_inv"] = weights[name].to(torch.float8_e4m3fn), torch.ones(1, 1)
    save_torch(weights, quantised / "model.safetensors")
    with pytest.raises(UserError, match=rf"^model\.path=\S+: 1 of 14 tensors are of type F8_E4M3 \(first {name}\)"):
        ensure_model_folder(ModelConfig(name="m", path=str(quantised)), tmp_path)
    weights[name] = weights[name].float()
    save_torch(weights, quantised / "model.safetensors")
    with pytest.raises(UserError, match=rf"1 of 14 tensors have no place in a qwen3 .*: {name}_scale_inv"):
        ensure_model_folder(ModelConfig(name="m", path=str(quantised)), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"generation_config\.json cannot be read \(not valid JSON"),
        ("[]", r"generation_config\.json is not a mapping"),
        (
            '{"eos_token_id": "<|im_end|>"}',
            r'generation_config\.json: eos_token_id="<\|im_end\|>": must be a token id or',
        ),
    ],
)
def test_ends_that_are_not_token_ids_are_found_before_anything_starts(
    folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    broken = copy(folder, tmp_path / "broken", without="generation_config.json")
    model = ModelConfig(name="given", path=str(broken))
    assert ensure_model_folder(model, tmp_path) == broken
    (broken / "generation_config.json").write_text('{"eos_token_id": [3, 1]}')
    assert ensure_model_folder(model, tmp_path) == broken
    (broken / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=rf"^model\.path={broken}: \S*{message}"):
        ensure_model_folder(model, tmp_path)


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    broken = copy(folder, tmp_path / "model", "model.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    (broken / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(UserError, match="1 of 2 weight files are missing, first model-00002-of-00002"):
        ensure_model_folder(ModelConfig(name="m", path=str(broken)), tmp_path)


def test_a_good_folder_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    model = ModelConfig(name="m", path=str(folder))
    assert ensure_model_folder(model, tmp_path) == folder
    assert ensure_tokenizer_folder(model, folder) == folder


def test_engines_load_a_folder_of_safetensors_alone(folder: Path, tmp_path: Path) -> None:
    assert find_served(str(folder), "key", {}) == folder.resolve()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match=rf"^key={tmp_path}: no weights \(\*\.safetensors\)$"):
        find_served(str(tmp_path), "key", {})
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    for told in ({}, {"load_format": "auto"}):
        with pytest.raises(
            UserError, match=rf"^key={tmp_path}: only \.bin files; save it with transformers in safeten"
        ):
            find_served(str(tmp_path), "key", told)
    assert find_served(str(tmp_path), "key", {"load_format": "dummy"}) == tmp_path.resolve()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "anything"])
def test_a_pipe_in_a_folder_is_named_and_not_waited_for(folder: Path, tmp_path: Path, name: str) -> None:
    for file in folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"^model\.path=.*/{name} cannot be read \(not a regular file\)$"):
        ensure_model_folder(ModelConfig(name="m", path=str(tmp_path)), tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.path=\./nowhere: there is no such folder"):
        ensure_model_folder(ModelConfig(name="m", path="./nowhere"), tmp_path)


def test_a_hub_name_that_cannot_be_fetched_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"model.path=nobody/no-such-model: .*could not be fetched") as caught:
        ensure_model_folder(ModelConfig(name="m", path="nobody/no-such-model"), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_chat_template_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_bytes("ü{{ messages }}".encode("latin-1"))
    with pytest.raises(UserError, match=r"model.chat_template=.*t.jinja: is not UTF-8"):
        read_chat_template(ModelConfig(name="m", chat_template=str(file)))


def test_a_missing_chat_template_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.chat_template=nowhere.jinja: cannot be read"):
        read_chat_template(ModelConfig(name="m", chat_template="nowhere.jinja"))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_the_users_umask_says_who_may_read_a_folder_that_is_made(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        folder = ensure_model_folder(config(), tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert not any(stat.S_IMODE(file.stat().st_mode) & umask for file in folder.iterdir())

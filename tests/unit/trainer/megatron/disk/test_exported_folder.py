"""An exported folder is what the run used: plain transformers renders, tokenises and loads it the same way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from rlscale.config.composition.compose import compose
from rlscale.config.schema.data_config import DataConfig
from rlscale.data.folders.companions import companions_of
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.folders.served_folder import served_folder
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.platform.ports import free_port
from rlscale.run.assembly import trainer_spec
from rlscale.run.model_folders import ModelFolders
from rlscale.trainer.megatron.disk import conversion
from rlscale.trainer.trainer_spec import Form
from rlscale.weights.served_copy import write_served

OWN_TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}={% else %}<|endoftext|>{% endif %}{% endfor %}"
)
PROMPT = "47+38"
TURNS = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in float32."""
    config = compose(None, ["model.create.architecture.num_hidden_layers=1"])
    return ensure_model_folder(config.model, tmp_path_factory.mktemp("made"))


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """The model with files in subfolders, and with things beside it that are not the model's."""
    folder = tmp_path / "model"
    shutil.copytree(made, folder)
    files = {
        "custom/notes.txt": "in a subfolder",
        "LICENSE": "yours",
        ".cache/huggingface/trace": "",
        "onnx/config.json": "{}",
        "onnx/model.onnx": "",
        "old.gguf": "",
        "model.safetensors.index.json.bak": "kept",
        "pytorch_model.bin.index.json": "{}",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def export(model: Path, target: Path, *overrides: str, critic: bool = False) -> None:
    """What a run of these overrides exports before its first step."""
    given = ["model.create=null", f"model.path={model}", f"run.scratch={target}-scratch", *overrides]
    config = compose(None, given)
    folders = ModelFolders.of(config)
    spec = replace(trainer_spec(config, folders), companions=companions_of(config, folders.policy))
    place, meet_at = (0, 1, 0), ("127.0.0.1", free_port("127.0.0.1"))
    conversion.convert(spec, place, meet_at, target, Form.hugging_face, critic=critic)


def cast(model: Path, dtype: str) -> Path:
    """The same model in another type, as its authors publish it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    target = model.with_name(f"{model.name}-{dtype}")
    transformers.AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize(
    ("published", "trained", "key"),
    [
        ("bfloat16", "float32", "torch_dtype"),
        ("float32", "bfloat16", "dtype"),
        ("float32", "float16", "torch_dtype"),
        ("float16", "float32", "dtype"),
    ],
)
def test_the_config_names_the_type_that_was_trained_and_transformers_loads_that(
    published: str, trained: str, key: str, model: Path, tmp_path: Path
) -> None:
    source = cast(model, published)
    content = config_of(source)
    content[key] = content.pop("dtype")
    (source / "config.json").write_text(json.dumps(content))
    export(source, tmp_path / "hf", f"model.dtype={trained}")
    assert config_of(tmp_path / "hf")[key] == trained
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert loaded.dtype == getattr(torch, trained)
    original = transformers.AutoModelForCausalLM.from_pretrained(source).state_dict()
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == getattr(torch, trained), name
        assert name not in weights or torch.equal(weight, weights[name]), name
        assert torch.equal(weight, original[name].to(weight.dtype)), name


def test_files_of_subfolders_are_there_and_no_weights_of_before(model: Path, tmp_path: Path) -> None:
    content = config_of(model) | {"quantization_config": None}
    (model / "config.json").write_text(json.dumps(content))
    export(model, tmp_path / "hf")
    exported = {str(path.relative_to(tmp_path / "hf")) for path in (tmp_path / "hf").rglob("*") if path.is_file()}
    assert {"custom/notes.txt", "LICENSE", "model.safetensors.index.json.bak", "model.safetensors"} <= exported
    assert not {".cache/huggingface/trace", "onnx/config.json", "onnx/model.onnx", "old.gguf"} & exported
    assert "pytorch_model.bin.index.json" not in exported
    assert "quantization_config" not in config_of(tmp_path / "hf")


def test_prompts_are_rendered_and_tokenised_as_in_the_run(model: Path, tmp_path: Path) -> None:
    """With a template of the run's own, also where the model's folder names others in three further places."""
    template = tmp_path / "own.jinja"
    template.write_text(OWN_TEMPLATE)
    (model / "chat_template.json").write_text('{"chat_template": "old"}')
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("old")
    kept = json.loads((model / "tokenizer_config.json").read_text()) | {"chat_template": "old"}
    (model / "tokenizer_config.json").write_text(json.dumps(kept))
    export(model, tmp_path / "hf", f"model.chat_template={template}")
    check_prompt(PromptEncoder(model, DataConfig(), 100, OWN_TEMPLATE), tmp_path / "hf")


def test_a_tokenizer_of_the_run_is_exported_with_its_ids(model: Path, tmp_path: Path) -> None:
    """Its characters stand in another order, so every id is another; eos and padding too."""
    own = character_tokenizer("=+9876543210", 64)
    own.eos_token, own.pad_token = "<|endoftext|>", "<|im_start|>"
    own.save_pretrained(tmp_path / "tokenizer")
    export(model, tmp_path / "hf", f"model.tokenizer={tmp_path / 'tokenizer'}")
    check_prompt(PromptEncoder(tmp_path / "tokenizer", DataConfig(), 100), tmp_path / "hf")
    config = config_of(tmp_path / "hf")
    assert (config["eos_token_id"], config["pad_token_id"]) == (3, 2)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (generation.eos_token_id, generation.pad_token_id) == ([3, 1], 2)


def test_engines_start_with_the_tokenizer_and_the_ends_of_the_run(model: Path, tmp_path: Path) -> None:
    """Otherwise they would stop at the model's own ids, which are other tokens of the run's tokenizer."""

    def served(*overrides: str) -> Path:
        config = compose(None, ["model.create=null", f"model.path={model}", *overrides])
        return served_folder(companions_of(config, model), "tiny", "float32", tmp_path / "scratch", write_served)

    assert served() == model
    own = character_tokenizer("=+9876543210", 64)
    own.eos_token = "9"
    own.save_pretrained(tmp_path / "tokenizer")
    given = f"model.tokenizer={tmp_path / 'tokenizer'}"
    folder = served(given)
    assert served(given) == folder
    assert config_of(folder)["eos_token_id"] == 3
    assert transformers.GenerationConfig.from_pretrained(folder).eos_token_id == [3, 6]
    assert transformers.AutoTokenizer.from_pretrained(folder)("9=").input_ids == [6, 4]
    ours, theirs = (transformers.AutoModelForCausalLM.from_pretrained(one).state_dict() for one in (folder, model))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    own.eos_token = "8"
    own.save_pretrained(tmp_path / "tokenizer")
    assert served(given) != folder


def check_prompt(used: PromptEncoder, exported: Path) -> None:
    """The tokenizer in a folder makes the same tokens of a conversation as the run did."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    prompt = used.encode(RawPrompt(0, "a", PROMPT))
    assert prompt is not None
    text = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert text == prompt.text
    assert tokenizer(text, add_special_tokens=False).input_ids == prompt.tokens.tolist()
    assert tokenizer.decode(used.encode_response("85")) == f"85{used.end_of_turn.text}"


def test_transformers_stops_at_the_end_of_turn_that_the_run_used(model: Path, tmp_path: Path) -> None:
    """The template ends turns with another token than the model's generation config names; both end a response."""
    template = tmp_path / "own.jinja"
    template.write_text(OWN_TEMPLATE)
    export(model, tmp_path / "hf", f"model.chat_template={template}")
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "hf").eos_token_id == [1, 3]
    (model / "generation_config.json").unlink()
    export(model, tmp_path / "other")
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "other").eos_token_id == 3


def test_a_critic_is_loaded_as_a_token_classifier_with_the_tokenizer_of_the_run(model: Path, tmp_path: Path) -> None:
    own = character_tokenizer("=+9876543210", 64)
    own.save_pretrained(tmp_path / "tokenizer")
    given = ["algo=ppo", f"model.tokenizer={tmp_path / 'tokenizer'}", "model.dtype=bfloat16"]
    export(model, tmp_path / "hf_critic", *given, critic=True)
    loaded = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "hf_critic")
    assert (loaded.dtype, loaded.num_labels) == (torch.bfloat16, 1)
    weights = load_file(tmp_path / "hf_critic" / "model.safetensors")
    assert torch.equal(loaded.score.weight, weights["score.weight"])
    check_prompt(PromptEncoder(tmp_path / "tokenizer", DataConfig(), 100), tmp_path / "hf_critic")

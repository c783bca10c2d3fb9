"""What lies beside the weights in a model's folder, as the run used it: config, tokenizer, template, ends of a turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlscale.config.derived.data_sections import training_sections
from rlscale.config.schema import Config
from rlscale.data.folders.model_folder import ensure_tokenizer_folder, read_chat_template
from rlscale.data.tokens.end_of_turn import find_end_of_turn, stops_of
from rlscale.data.tokens.prompt_encoder import load_tokenizer
from rlscale.data.tokens.template_limits import try_template
from rlscale.families import known_name
from rlscale.families.config_file import DTYPE_KEYS, GENERATION, end_ids, read_generation
from rlscale.families.weight_files import SUMS

_WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"),
    *(".onnx", ".onnx_data", ".ot", ".tflite", ".npz", ".index.json"),
)
"""Endings of files that hold weights or say where weights are."""

_TEMPLATE, _MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
_TOKENIZER = {
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
    *(_TEMPLATE, "chat_template.json"),
}
"""Files of a tokenizer, by their names in transformers."""


@dataclass(frozen=True)
class Companions:
    """What is written beside exported weights. Plain data; the folders must be seen by whoever writes."""

    model_folder: str
    """Hugging Face folder with config.json and any further files."""
    tokenizer_folder: str
    """Folder of the tokenizer that the run encoded with; often the same."""
    chat_template: str | None = None
    """Jinja text that the run used in place of the tokenizer's template."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """The content of generation_config.json; empty for the model folder's own."""
    tokens: Mapping[str, Any] = field(default_factory=dict)
    """Special token ids in config.json that another tokenizer has otherwise."""

    def write(self, target: Path, dtype: str, changes: Mapping[str, Any] | None = None) -> None:
        """Copy and adapt them into a folder. `dtype` is that of the weights there, `changes` are keys of config.json.

        config.json keeps all its other keys: transformers leaves out some that SGLang reads when it writes one.
        OSError when the disk refuses.
        """
        for folder, file in self._places():
            _copy(folder / file, target / file)
        if self.chat_template is not None:
            _write_template(target, self.chat_template)
        config = _read(target / "config.json")
        config = _without_own_code(_with_dtype(config, dtype))
        _write(target / "config.json", config | dict(self.tokens) | dict(changes or {}))
        if self.generation:
            _write(target / GENERATION, self.generation)

    def files(self) -> Iterator[Path]:
        """The files that are copied."""
        return (folder / file for folder, file in self._places())

    def _places(self) -> Iterator[tuple[Path, Path]]:
        """Each file with its folder, to which it is relative."""
        model, tokenizer = Path(self.model_folder), Path(self.tokenizer_folder)
        yield from ((model, file) for file in _files(model) if model == tokenizer or not _is_of_tokenizer(file))
        if model != tokenizer:
            yield from ((tokenizer, file) for file in _files(tokenizer) if _is_of_tokenizer(file))


def companions_of(config: Config, model_folder: Path) -> Companions:
    """Those of a run whose model lies in that folder. UserError for a tokenizer or template that cannot be used."""
    tokenizer_folder = ensure_tokenizer_folder(config.model, model_folder)
    template = read_chat_template(config.model)
    tokenizer = load_tokenizer(tokenizer_folder)
    if template is not None:
        tokenizer.chat_template = template
    for data in training_sections(config).values():
        try_template(tokenizer, data.chat_template_kwargs)
    stops = stops_of(tokenizer_folder)
    own = [
        find_end_of_turn(tokenizer, data.apply_chat_template, key, data.chat_template_kwargs, stops)
        for key, data in training_sections(config).items()
    ]
    generation = read_generation(model_folder)
    ends = [*(end.token for end in own), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
    tokens: dict[str, Any] = {}
    if tokenizer_folder == model_folder:
        ends += [*end_ids(generation), *end_ids(_read(model_folder / "config.json"))]
    else:  # the model's own ids are other tokens in this tokenizer
        tokens = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
        generation |= tokens
        tokens["eos_token_id"] = own[0].token
    different = list(dict.fromkeys(ends))
    generation["eos_token_id"] = different if len(different) > 1 else different[0]
    return Companions(str(model_folder), str(tokenizer_folder), template, generation, tokens)


def _files(folder: Path) -> Iterator[Path]:
    """Files to copy, relative to their folder: no weights, nothing hidden, and no folder that holds other weights."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_file():
            if not entry.name.endswith(_WEIGHTS) and entry.name != SUMS:
                yield entry.relative_to(folder)
        elif entry.is_dir() and not any(file.name.endswith(_WEIGHTS) for file in entry.rglob("*")):
            yield from (entry.relative_to(folder) / file for file in _files(entry))


def _is_of_tokenizer(file: Path) -> bool:
    python = file.name.startswith("tokenization_") and file.suffix == ".py"
    return file.parts[0] == _MORE_TEMPLATES or (
        len(file.parts) == 1 and (file.name in _TOKENIZER or file.suffix == ".tiktoken" or python)
    )


def _write_template(folder: Path, text: str) -> None:
    """The one template of the tokenizer there, wherever transformers looks for one."""
    (folder / "chat_template.json").unlink(missing_ok=True)
    shutil.rmtree(folder / _MORE_TEMPLATES, ignore_errors=True)
    (folder / _TEMPLATE).write_text(text, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    if file.is_file():
        config = _read(file)
        if config.pop("chat_template", None) is not None:
            _write(file, config)


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Under the names that the config has for it."""
    config.pop("quantization_config", None)
    names = [name for name in DTYPE_KEYS if name in config] or [DTYPE_KEYS[0]]
    return config | dict.fromkeys(names, dtype)


def _without_own_code(config: dict[str, Any]) -> dict[str, Any]:
    """An architecture that is published under a name that only its own code knows has the known one: so it is read."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or known_name(kind) == kind:
        return config
    return {key: value for key, value in config.items() if key != "auto_map"} | {"model_type": known_name(kind)}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _read(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

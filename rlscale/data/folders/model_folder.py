"""The folder of a model in Hugging Face form: checked, fetched from the hub, or made by the project itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError, first_line
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.made_once import made_once
from rlscale.data.tokens.character_tokenizer import SPECIAL_TOKENS, character_tokenizer, vocabulary_size
from rlscale.families import FAMILIES, FolderError
from rlscale.families.config_file import CONFIG, complete, problems, read_config, read_generation
from rlscale.families.family import Head
from rlscale.families.fit import check_weights
from rlscale.families.inner_file import refuse_pipe
from rlscale.families.origin import CHECKPOINT, check_origin
from rlscale.families.weight_files import weight_files

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_FORMAT = 4
"""Raised when what `_create` writes changes, so that folders of an older rlscale are made anew."""


def ensure_model_folder(
    model: ModelConfig, scratch: Path, key: str = "model", head: Head = Head.language, *, mtp: bool = False
) -> Path:
    """The folder with config, tokenizer and weights of `model`, the configuration's section `key`, for that head.

    `mtp`: its weights have the layer that predicts a token further.
    `model.path`: that folder after a check, or a snapshot of the hub's repository of that name. `model.create`: a
    folder `<scratch>/models/<name>-<hash>`, made once and kept; it appears whole or not at all.
    UserError if something is missing.
    """
    if model.path is not None:
        return find_model(model.path, f"{key}.path", head, need_tokenizer=model.tokenizer is None, mtp=mtp)
    if model.create is None:
        raise UserError(f"{key}.path and {key}.create are both empty: give a Hugging Face folder or name as {key}.path")
    made = _ensure_created(model.name, model.create, model.dtype.value, scratch)
    _check(made, f"{key}.create", str(made), head)
    return made


def find_model(
    name: str, key: str, head: Head = Head.language, need_tokenizer: bool = True, *, mtp: bool = False
) -> Path:
    """The local folder of that path or hub name, understood whole. UserError naming `key`."""
    folder = find_folder(name, key, need_tokenizer=need_tokenizer)
    _check(folder, key, name, head, mtp=mtp)
    return folder


def ensure_tokenizer_folder(model: ModelConfig, model_folder: Path) -> Path:
    """The folder of the tokenizer: of `model.tokenizer` if given, the model's otherwise. UserError if it has none."""
    if model.tokenizer is None:
        return model_folder
    return find_folder(model.tokenizer, "model.tokenizer", need_config=False)


def read_chat_template(model: ModelConfig) -> str | None:
    """The text of the file `model.chat_template`, None for the tokenizer's own. UserError if it is missing."""
    if model.chat_template is None:
        return None
    try:
        return Path(model.chat_template).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"model.chat_template={model.chat_template}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"model.chat_template={model.chat_template}: is not UTF-8 ({error})") from error


def find_folder(name: str, key: str, need_config: bool = True, need_tokenizer: bool = True) -> Path:
    """The local folder of that path or hub name, with config and tokenizer where needed. UserError naming `key`."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        looks_local = folder.exists() or name.startswith(("/", ".", "~")) or not _HUB_NAME.match(name)
        if looks_local:
            raise UserError(
                f"{key}={name}: there is no such folder; give a Hugging Face folder or a hub name (owner/model)"
            )
        folder = _snapshot(name, key)
    try:
        for file in folder.iterdir():
            refuse_pipe(file)
    except OSError as error:
        raise UserError(f"{key}={name}: {error.filename} cannot be read ({error.strerror})") from error
    if need_config and not (folder / CONFIG).is_file():
        raise UserError(f"{key}={name}: {CONFIG} is missing; is this a Hugging Face model folder?")
    if need_tokenizer and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(f"{key}={name}: {folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)})")
    return folder.resolve()


def find_served(name: str, key: str, options: Mapping[str, Any], need_tokenizer: bool = True) -> Path:
    """`find_folder` of a model that engines load: its weights are safetensors. UserError naming `key`.

    SGLang would take other files (*.bin, *.pt), which may hold code that it runs. With `load_format=dummy` among the
    engines' `options` they load no weights, and need none.
    """
    folder = find_folder(name, key, need_tokenizer=need_tokenizer)
    if options.get("load_format") != "dummy":
        try:
            weight_files(folder)
        except FolderError as error:
            raise UserError(f"{key}={name}: {error}") from error
    return folder


def _snapshot(name: str, key: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        offline = constants.HF_HUB_OFFLINE  # as it is now, not as it was when the hub's session was opened
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = first_line(error)
        raise UserError(
            f"{key}={name}: no folder of that name, and it could not be fetched from the Hugging Face hub "
            f"({reason[:200]}); download it first and give its folder"
        ) from error


def _check(folder: Path, key: str, name: str, head: Head, *, mtp: bool = False) -> None:
    """Is the folder understood whole: config.json, weights, and nothing else. UserError naming `key`."""
    try:
        _understand(folder, head, mtp=mtp)
        read_generation(folder)
    except FolderError as error:
        raise UserError(f"{key}={name}: {error}") from error


def _understand(folder: Path, head: Head, *, mtp: bool = False) -> None:
    """FolderError, without the folder's name, if config.json or the weights are not a model that is trained here."""
    config = read_config(folder)
    for problem in problems(config):
        raise FolderError(problem)
    whole = complete(config)
    for problem in FAMILIES[whole["model_type"]].unsupported(whole):
        raise FolderError(problem)
    check_weights(folder, whole, head, mtp=mtp)


def check_start(init: str, key: str, model_folder: Path, head: Head, *, mtp: bool = False) -> None:
    """Check that the weights to start from, `init`, are of the architecture of the model in `model_folder`.

    `mtp`: and have the layer that predicts a token further, where they are of a Hugging Face folder.
    UserError naming `key` for a folder that cannot be read, or that holds another model.
    """
    folder, config = Path(init).expanduser(), complete(read_config(model_folder))
    try:
        check_origin(folder, config, head)
        if not (folder / CHECKPOINT).is_file():
            _understand(folder, head, mtp=mtp)
    except FolderError as error:
        raise UserError(f"{key}={init}: {error}") from error


def _ensure_created(name: str, create: CreateModelConfig, dtype: str, scratch: Path) -> Path:
    what = [_FORMAT, create.architecture, create.characters, create.seed, dtype]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]
    final = (scratch / "models" / f"{name}-{digest}").resolve()
    return made_once(final, partial(_create, create, dtype))


def _create(create: CreateModelConfig, dtype: str, folder: Path) -> None:
    """Write config.json, seeded random weights, tokenizer and generation_config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    architecture = _architecture(create)
    ids = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    given = {key: value for key, value in architecture.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(architecture["model_type"], **given, dtype=dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(create.seed)
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
            # transformers leaves the padding token's embedding at zero and never trains it. Here a random model may
            # sample that token like any other, and a norm of zeros has a gradient a thousand times too large.
            with torch.no_grad():
                model.get_input_embeddings().weight[config.pad_token_id].normal_(std=config.initializer_range)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model.create.architecture: transformers refuses it: {error}") from error
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<pad>"], bos_token_id=None, do_sample=True
    )
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
    engine_reads = FAMILIES[architecture["model_type"]].engine_reads
    written = {**{key: architecture[key] for key in engine_reads if key in architecture}, **read_config(folder)}
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    length = int(complete(architecture)["max_position_embeddings"])
    character_tokenizer(create.characters, length).save_pretrained(folder)


def _architecture(create: CreateModelConfig) -> dict[str, Any]:
    """The given architecture with vocabulary and special token ids filled in. UserError if they contradict it."""
    repeated = sorted({c for c in create.characters if create.characters.count(c) > 1})
    if repeated:
        raise UserError(f"model.create.characters holds {repeated[0]!r} more than once")
    tokens = len(SPECIAL_TOKENS) + len(create.characters)
    architecture = {
        "vocab_size": vocabulary_size(create.characters),
        "bos_token_id": None,
        "eos_token_id": SPECIAL_TOKENS.index("<|im_end|>"),
        "pad_token_id": SPECIAL_TOKENS.index("<pad>"),
        **create.architecture,
    }
    if isinstance(architecture["vocab_size"], int) and architecture["vocab_size"] < tokens:
        raise UserError(
            f"model.create.architecture.vocab_size={architecture['vocab_size']} is under the {tokens} tokens of "
            "model.create.characters and the special tokens; leave it out to have it derived"
        )
    for problem in problems(architecture):
        raise UserError(f"model.create.architecture: {problem}")
    return architecture

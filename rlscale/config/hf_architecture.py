"""The model's architecture from its Hugging Face config, read as plain JSON: no transformers, no torch, no download."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.model_config import ModelConfig
from rlscale.families import FolderError
from rlscale.families.config_file import complete, read_config

_SPECIAL_TOKENS = 4
"""Tokens of a made model besides its characters."""


def read_architecture(model: ModelConfig) -> dict[str, Any] | None:
    """The Hugging Face config of the model, or None where it cannot be read (a hub name that is not downloaded yet).

    Keys that are not given have the values that transformers takes, but where `families.config_file.problems` finds
    something: then it is as it was given. Raises UserError when `model.path` is neither a folder nor a hub name, or
    when its config.json is missing or broken.
    """
    if model.path is None:
        if model.create is None:
            raise UserError("model.path: has no value; give a Hugging Face folder or hub name, or model.create")
        vocabulary = len(model.create.characters) + _SPECIAL_TOKENS
        return complete({"vocab_size": vocabulary, **model.create.architecture})
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return _read(folder, model.path)
    if not is_hub_name(model.path):
        raise UserError(f"model.path={model.path}: there is no such folder (a hub name looks like owner/name)")
    cached = _cached(model.path)
    return _read(cached.parent, model.path) if cached is not None else None


def is_hub_name(name: str) -> bool:
    """Whether a name may be one on the Hugging Face hub (owner/name) rather than a path."""
    return not name.startswith(("/", ".", "~")) and name.count("/") == 1


def is_here(name: str, *, weights: bool = True) -> bool:
    """Whether a folder or hub name can be read without a download; with `weights`, those of the model, too.

    Whoever asked the hub for a config alone has a snapshot without weights.
    """
    if Path(name).is_dir():
        return True
    config = _cached(name)
    if config is None or not weights:
        return config is not None
    index = config.parent / "model.safetensors.index.json"
    if not index.is_file():
        return any(config.parent.glob("*.safetensors"))
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True  # another check says what is wrong with it
    return all((config.parent / str(file)).is_file() for file in files)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return complete(read_config(folder))
    except FolderError as error:
        raise UserError(f"model.path={name}: {error}") from error


def _cached(name: str) -> Path | None:
    """config.json of a hub model in the local Hugging Face cache (its documented layout)."""
    home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    snapshots = Path(hub) / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return found[-1] if found else None

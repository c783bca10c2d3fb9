"""The folders that engines would start from, without making any of them where it would stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.hf_architecture import is_here
from rlscale.config.schema import Config
from rlscale.data.folders.cached_only import cached_only
from rlscale.data.folders.companions import companions_of
from rlscale.data.folders.model_folder import ensure_model_folder, find_folder
from rlscale.data.folders.served_folder import served_path
from rlscale.families.config_file import CONFIG
from rlscale.run.sides.generate_only import serving, starting_folder


@dataclass(frozen=True)
class StartedFolders:
    """Folders that hold at least a config.json now, and what they will be called."""

    config: Config
    policy: str
    scratch: Path
    names: dict[str, str]
    """What stands for a folder that is only there for now."""

    def beside(self, name: str) -> str:
        """The folder of a model of `rollout.models`, or its name where it is not downloaded."""
        model = self.config.rollout.models[name]
        if model.follows_policy:
            return self.policy
        path = str(model.path or "")
        return str(find_folder(path, f"rollout.models.{name}.path")) if path and is_here(path) else path

    def draft(self, config: Config) -> str | None:
        """The folder of the draft of a fleet's engines, or its name where it is not downloaded; None without one."""
        draft = config.rollout.speculation.draft
        if draft is None or not is_here(draft):
            return draft
        return str(find_folder(draft, "rollout.speculation.draft", need_tokenizer=False))

    def serving(self, config: Config) -> Config:
        """The configuration of engines of a run without a trainer."""
        return serving(config)

    def shown(self, value: Any) -> Any:
        """Plain values with the folders as they will be called."""
        if isinstance(value, dict):
            return {key: self.shown(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.shown(inner) for inner in value]
        if isinstance(value, str):
            for folder, name in self.names.items():
                if value == folder or value.startswith(f"{folder}/"):
                    value = name + value.removeprefix(folder)
        return value


@contextmanager
def started_folders(config: Config, *, needs_engines: bool) -> Iterator[StartedFolders]:
    """The folders of a run. What has to be made for now goes with the block."""
    scratch = Path(config.run.scratch).resolve()
    with TemporaryDirectory() as other, cached_only():
        path = config.model.path
        if not needs_engines:
            yield StartedFolders(config, "", scratch, {})
        elif path is not None and not is_here(path):
            Path(other, CONFIG).write_text(json.dumps(dict(architecture_of(config.model))), encoding="utf-8")
            yield StartedFolders(config, other, scratch, {other: path})
        else:
            model, started = _served(config, Path(other), scratch)
            yield StartedFolders(config, str(model), scratch, {str(model): str(started), other: str(scratch)})


def _served(config: Config, other: Path, scratch: Path) -> tuple[Path, Path]:
    """A folder with the config of what engines would start from, and the folder that they would start from.

    A model that rlscale makes is made in `other`.
    """
    model = ensure_model_folder(config.model, other)
    if config.serves_adapters:
        model = starting_folder(config, model)
    tokenizer = config.model.tokenizer
    if tokenizer is not None and not is_here(tokenizer, weights=False):
        return model, model  # its files, which lie with what engines start from, are not here
    form = config.rollout.served_form
    started = served_path(companions_of(config, model), config.model.name, config.model.dtype.value, scratch, form)
    return (started, started) if (started / CONFIG).is_file() else (model, started)

"""The prompt source that a configuration describes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, CustomData, DataConfig, FileData, MixtureData
from rlscale.data.prompts.first_prompts import FirstPrompts
from rlscale.data.prompts.sources import PromptSource


def training_source(config: DataConfig) -> PromptSource:
    """The source that is trained on: all of what `config` describes, or `data.first` prompts of it."""
    source = build_source(config)
    return source if config.first is None else FirstPrompts(source, config.first)


def build_source(config: DataConfig, key: str = "data") -> PromptSource:
    """The source that `config` describes, at its beginning. UserError naming the file or `key` (data, eval.data)."""
    # Imported here: a run needs one of them, and pyarrow takes a while to import.
    if isinstance(config, ArithmeticData):
        from rlscale.data.prompts.arithmetic import ArithmeticSource

        return ArithmeticSource(config, key)
    if isinstance(config, FileData):
        from rlscale.data.prompts.prompt_files import FileSource

        return FileSource(config, key)
    if isinstance(config, CustomData):
        return _built(config.source, f"{key}.source")
    if isinstance(config, MixtureData):
        from rlscale.data.prompts.mixture import MixtureSource

        sources = {name: build_source(one.data, f"{key}.sources.{name}.data") for name, one in config.sources.items()}
        return MixtureSource(sources, {name: one.weight for name, one in config.sources.items()}, config.seed)
    raise UserError(
        f"{key}: no source for {type(config).__name__}; choose one with {key}=arithmetic, jsonl, parquet, "
        "custom or mixture"
    )


def _built(node: Mapping[str, Any], key: str) -> PromptSource:
    """The source of a class, which is not built where it lacks a method, or what a function makes.

    UserError naming `key` for what is no source.
    """
    from rlscale.data.target import build_target, check_node, resolve_target

    check_node(node, key)
    target: Any = resolve_target(node, key)
    is_class = inspect.isclass(target)
    if not is_class or issubclass(target, PromptSource) or hasattr(target, "__getattr__"):
        source = build_target(node, key)
        if isinstance(source, PromptSource):
            return source
        target = type(source)
    name = target.__name__
    raise UserError(f"{key}: {name} lacks a method of rlscale.data.prompts.sources.PromptSource")

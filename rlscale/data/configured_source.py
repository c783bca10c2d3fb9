"""The prompt source that a configuration describes."""

from __future__ import annotations

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
        from rlscale.data.protocol_methods import build_as

        source: PromptSource = build_as(config.source, f"{key}.source", PromptSource)
        return source
    if isinstance(config, MixtureData):
        from rlscale.data.prompts.mixture import MixtureSource

        sources = {name: build_source(one.data, f"{key}.sources.{name}.data") for name, one in config.sources.items()}
        return MixtureSource(sources, {name: one.weight for name, one in config.sources.items()}, config.seed)
    raise UserError(
        f"{key}: no source for {type(config).__name__}; choose one with {key}=arithmetic, jsonl, parquet, "
        "custom or mixture"
    )

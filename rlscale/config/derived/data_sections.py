"""The sections of a configuration that name prompts: what is trained on, and what is evaluated."""

from __future__ import annotations

from rlscale.config.schema import Config
from rlscale.config.schema.data_config import DataConfig, MixtureData
from rlscale.config.schema.reward_config import RewardConfig


def training_sections(config: Config) -> dict[str, DataConfig]:
    """What is trained on, by key: `data`, or the sources of a mixture (`data.sources.NAME.data`)."""
    if not isinstance(config.data, MixtureData):
        return {"data": config.data}
    return {f"data.sources.{name}.data": one.data for name, one in config.data.sources.items()}


def evaluation_sections(config: Config) -> dict[str, DataConfig]:
    """What is evaluated, by key: `eval.data` if it is given, and the further sets (`eval.sets.NAME.data`)."""
    first = {} if config.eval.data is None else {"eval.data": config.eval.data}
    return first | {f"eval.sets.{name}.data": one.data for name, one in config.eval.sets.items()}


def reward_of(config: Config, key: str) -> RewardConfig:
    """The reward that judges answers to the prompts of a section."""
    *kind, name = key.removesuffix(".data").split(".")
    sources = config.data.sources if isinstance(config.data, MixtureData) else {}
    own = config.eval.sets[name].reward if kind == ["eval", "sets"] else None
    if own is None and kind in (["eval", "sets"], ["data", "sources"]) and name in sources:
        own = sources[name].reward
    return own or config.reward

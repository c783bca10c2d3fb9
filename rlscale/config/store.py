"""The schema, made known to Hydra: the root, and the sections whose type depends on the chosen option."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.core.config_store import ConfigStore

from rlscale.config.schema import Config
from rlscale.config.schema.algo_config import (
    AdvantageConfig,
    BaselineAdvantage,
    BroadcastAdvantage,
    CispoLoss,
    ClipLoss,
    CustomAdvantage,
    CustomLoss,
    GaeAdvantage,
    GspoLoss,
    GspoTokenLoss,
    LossConfig,
    NoAdvantage,
    ReturnsAdvantage,
    SapoLoss,
    SftLoss,
)
from rlscale.config.schema.data_config import ArithmeticData, CustomData, DataConfig, FileData
from rlscale.config.schema.section import Section

ROOT = "rlscale_schema"
"""Name of the root schema; the first entry of every recipe's defaults list."""

DATA_SCHEMAS: dict[str, type[DataConfig]] = {
    "arithmetic_schema": ArithmeticData,
    "file_schema": FileData,
    "custom_schema": CustomData,
}
ADVANTAGE_SCHEMAS: dict[str, type[AdvantageConfig]] = {
    "no_advantage_schema": NoAdvantage,
    "broadcast_schema": BroadcastAdvantage,
    "returns_schema": ReturnsAdvantage,
    "baseline_schema": BaselineAdvantage,
    "gae_schema": GaeAdvantage,
    "custom_advantage_schema": CustomAdvantage,
}
LOSS_SCHEMAS: dict[str, type[LossConfig]] = {
    "clip_schema": ClipLoss,
    "gspo_schema": GspoLoss,
    "gspo_token_schema": GspoTokenLoss,
    "cispo_schema": CispoLoss,
    "sapo_schema": SapoLoss,
    "sft_schema": SftLoss,
    "custom_loss_schema": CustomLoss,
}
SCHEMAS: dict[str, type[Section]] = {**DATA_SCHEMAS, **ADVANTAGE_SCHEMAS, **LOSS_SCHEMAS}
"""The schemas that an option names in its defaults list."""

OPTIONS: dict[str, str] = {
    "file_schema": "jsonl",
    "no_advantage_schema": "none",
    "custom_advantage_schema": "custom",
    "custom_loss_schema": "custom",
}
"""The shipped option of a schema where it is not the schema's own name."""


def option_of(section: object, schemas: Mapping[str, type]) -> str:
    """The shipped option whose schema this section has. Raises ValueError for a section of no schema of the table."""
    for name, schema in schemas.items():
        if type(section) is schema:  # one schema may build on another
            return OPTIONS.get(name, name.removesuffix("_schema"))
    raise ValueError(f"{type(section).__name__} is none of {', '.join(schemas)}")


def register_schema() -> None:
    """Put the schema into Hydra's store, once per process."""
    store = ConfigStore.instance()
    if f"{ROOT}.yaml" in store.repo:
        return
    store.store(name=ROOT, node=Config)
    for name, data in DATA_SCHEMAS.items():
        store.store(group="data", name=name, node=data)
    for name, advantage in ADVANTAGE_SCHEMAS.items():
        store.store(group="algo/advantage", name=name, node=advantage)
    for name, loss in LOSS_SCHEMAS.items():
        store.store(group="algo/loss", name=name, node=loss)

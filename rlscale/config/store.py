"""The schema, made known to Hydra: the root, and the sections whose type depends on the chosen option."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from rlscale.config.schema import Config
from rlscale.config.schema.algo import ClipLoss, GspoLoss, LossConfig, SftLoss
from rlscale.config.schema.data import ArithmeticData, CustomData, DataConfig, FileData

ROOT = "rlscale_schema"
"""Name of the root schema; the first entry of every recipe's defaults list."""

DATA_SCHEMAS: dict[str, type[DataConfig]] = {
    "arithmetic_schema": ArithmeticData,
    "file_schema": FileData,
    "custom_schema": CustomData,
}
LOSS_SCHEMAS: dict[str, type[LossConfig]] = {"clip_schema": ClipLoss, "gspo_schema": GspoLoss, "sft_schema": SftLoss}


def register_schema() -> None:
    """Put the schema into Hydra's store, once per process."""
    store = ConfigStore.instance()
    if f"{ROOT}.yaml" in store.repo:
        return
    store.store(name=ROOT, node=Config)
    for name, data in DATA_SCHEMAS.items():
        store.store(group="data", name=name, node=data)
    for name, loss in LOSS_SCHEMAS.items():
        store.store(group="algo/loss", name=name, node=loss)

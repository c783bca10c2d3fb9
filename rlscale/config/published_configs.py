"""The configs of the shipped models, so that a run is planned without network and without their weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema.model_config import ModelConfig
from rlscale.families.config_file import complete

_FILE = Path(__file__).with_suffix(".json")


@functools.cache
def published() -> dict[str, dict[str, Any]]:
    """config.json by hub name, of its keys those that a family knows."""
    found: dict[str, dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def architecture_of(model: ModelConfig) -> Mapping[str, Any]:
    """The completed config of a model: from its folder, the local cache or what is shipped. UserError otherwise."""
    here = read_architecture(model)
    if here is not None:
        return here
    if model.path not in published():
        raise UserError(
            f"model.path={model.path}: is neither downloaded nor one of the shipped models; put its config.json into a "
            "folder and give that as model.path (weights are not needed)"
        )
    return complete(published()[model.path])

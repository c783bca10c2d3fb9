"""The configs of the shipped models, so that a run is planned without network and without their weights.

`conf/model/NAME.json` is the config.json of the model that `conf/model/NAME.yaml` names.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.config.composition.locations import conf_dir
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema.model_config import ModelConfig
from rlscale.families import FAMILIES, known_name
from rlscale.families.config_file import complete


@functools.cache
def published() -> dict[str, dict[str, Any]]:
    """config.json by hub name, of its keys those that its family knows."""
    found = {}
    for file in sorted((conf_dir() / "model").glob("*.json")):
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = ("model_type", *FAMILIES[known_name(config["model_type"])].keys)
        found[_hub_name(file)] = {key: value for key, value in config.items() if key in known}
    return found


def _hub_name(file: Path) -> str:
    """What the option beside a config.json says."""
    option = read_yaml(file.with_suffix(".yaml"))
    assert isinstance(option, dict)
    return str(option["path"])


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

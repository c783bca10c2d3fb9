"""Whose weights a folder holds: the config of a Hugging Face folder or of a checkpoint, against that of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.families.config_file import CONFIG, differences, problems, read_json
from rlscale.families.family import FolderError, Head

ARCHITECTURE = "architecture.json"
"""The file in which a checkpoint keeps the Hugging Face config of its model."""

CHECKPOINT = "metadata.json"
"""The file that makes a folder a Megatron checkpoint; it is written last."""


NEITHER = f"is neither a Hugging Face folder ({CONFIG}) nor a checkpoint ({CHECKPOINT})"
"""What is wrong with a folder that holds no weights."""


def holds_weights(folder: Path) -> bool:
    """Whether a folder is a Hugging Face folder or a checkpoint, by its names of files."""
    return any((folder / name).is_file() for name in (CONFIG, CHECKPOINT))


def architecture_text(config: Mapping[str, Any]) -> str:
    """The content of a checkpoint's `ARCHITECTURE`."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def check_origin(folder: Path, config: Mapping[str, Any], head: Head, *, needed: bool = True) -> None:
    """Check that a folder's weights are of the same architecture as a model with this config.

    Without `needed`, a checkpoint of before checkpoints kept their config passes. FolderError, without the folder's
    name, for a folder that is neither form, says nothing, or says another model.
    """
    theirs = _config_of(folder)
    if theirs is None:
        if needed:
            raise FolderError(
                f"does not say which model its weights belong to; copy that model's {CONFIG} there as {ARCHITECTURE}"
            )
        return
    for problem in problems(theirs):
        raise FolderError(problem)
    if other := differences(config, theirs, head):
        raise FolderError(
            f"holds a different model: {'; '.join(other)}; give weights of the same architecture, or make the configs "
            "agree"
        )


def _config_of(folder: Path) -> dict[str, Any] | None:
    """The config that goes with a folder's weights; None for a checkpoint without one."""
    if (folder / CHECKPOINT).is_file():
        file = folder / ARCHITECTURE
        return read_json(file) if file.is_file() else None
    if (folder / CONFIG).is_file():
        return read_json(folder / CONFIG)
    raise FolderError(NEITHER)

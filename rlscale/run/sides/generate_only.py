"""Engines that serve what training would start from, for a run that only generates (`run.generate_only`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.schema import Config

VERSION = 0
"""Weight version of engines that serve what their folder holds."""


def starting_folder(config: Config, model: Path) -> Path:
    """The Hugging Face folder with the weights that training would start from; `model` is the policy's.

    UserError for weights in another form, which engines do not read.
    """
    init = config.model.init
    if init is None:
        return model
    folder = Path(init).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.init={init}: engines serve Hugging Face folders, and this is not one; write one with "
            "python -m rlscale export run.output=..., and name that"
        )
    return folder


def serving(config: Config) -> Config:
    """The configuration of engines that say of their folder's weights that they are `VERSION`."""
    sglang = {**config.rollout.sglang, "weight_version": str(VERSION)}
    return dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, sglang=sglang))

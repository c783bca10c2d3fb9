"""The supervised stage before reinforcement learning: run when its result is missing, afterwards only looked up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlscale.config.checks import check
from rlscale.config.compose import config_hash
from rlscale.config.schema import Config
from rlscale.config.schema.checkpoint import Resume
from rlscale.config.warm_start import compose_warm_start
from rlscale.run.folder import read_mark


def stage_config(config: Config) -> Config:
    """The configuration of the stage that `warm_start.recipe` names; its folder is named by the hash of the rest."""
    stage = compose_warm_start(config)
    folder = Path(stage.run.root) / stage.run.recipe / f"stage-{config_hash(stage)[:12]}"
    placed = dataclasses.replace(
        stage,
        run=dataclasses.replace(stage.run, output=str(folder)),
        checkpoint=dataclasses.replace(stage.checkpoint, resume=Resume.auto),
    )
    placed.freeze()
    check(placed)
    return placed


def finished_model(stage: Config) -> Path | None:
    """The model that the stage left behind, or None when it has still to run."""
    assert stage.run.output is not None
    folder = Path(stage.run.output)
    facts = read_mark(folder)
    model = folder / "hf"
    if facts is None or facts.get("state") != "finished" or not (model / "config.json").is_file():
        return None
    return model.resolve()


def start_from(config: Config, model: Path) -> Config:
    """This run's configuration, starting from the stage's model."""
    started = dataclasses.replace(config, model=dataclasses.replace(config.model, init=str(model)), warm_start=None)
    started.freeze()
    return started

"""The ways by which a trainer's weights come to fleets of engines, and the folders in which they lie meanwhile."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from rlscale.config.schema import Config
from rlscale.families.config_file import complete, read_config
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.run.sides.weight_sync import WeightSync
from rlscale.weights.transports.route import Route


class WeightRoutes:
    """Makes a `WeightSync` for each fleet. `close` removes all files that were on their way."""

    def __init__(self, trainer: TrainerGroup, model: Path, run: Path) -> None:
        """`model`: the folder of the policy; `run`: that of the run."""
        self._trainer, self._model = trainer, model
        self._folder = run.resolve() / "weights"
        self._exchanges: list[Path] = []  # below a folder that the user names

    def to(self, config: Config, engines: Engines, rollout: Rollout) -> WeightSync:
        """What gives these engines, which the rollout service asks, the trainer's weights."""
        folder = self._folder / secrets.token_hex(4)
        if (named := config.weights.transport.get("folder")) is not None:
            self._exchanges.append(Route(folder=str(folder)).exchange(named, None)[0])
        return WeightSync(config, self._trainer, engines, rollout, complete(read_config(self._model)), folder)

    def close(self) -> None:
        """Nothing is on its way any more."""
        for folder in (self._folder, *self._exchanges):
            shutil.rmtree(folder, ignore_errors=True)

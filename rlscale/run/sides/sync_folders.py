"""The folders in which weights lie on their way from a trainer to engines, and the syncs that use them."""

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


class SyncFolders:
    """Makes the `WeightSync` of each fleet, with a folder of its own. `close` removes all that was on its way."""

    def __init__(self, run: Path) -> None:
        """`run`: the folder of the run."""
        self._folder = run.resolve() / "weights"
        self._exchanges: list[Path] = []  # below a folder that the user names

    def sync(
        self, config: Config, trainer: TrainerGroup, engines: Engines, rollout: Rollout, model: Path
    ) -> WeightSync:
        """What gives these engines, which the service asks, the trainer's weights. `model`: the policy's folder."""
        folder = self._folder / secrets.token_hex(4)
        if (named := config.weights.transport.get("folder")) is not None:
            self._exchanges.append(Route(folder=str(folder)).exchange(named, None)[0])
        return WeightSync(config, trainer, engines, rollout, complete(read_config(model)), folder)

    def close(self) -> None:
        """Nothing is on its way any more."""
        for folder in (self._folder, *self._exchanges):
            shutil.rmtree(folder, ignore_errors=True)

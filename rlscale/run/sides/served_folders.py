"""The folders that a run's engines start from, which nobody removes while the run lives."""

from __future__ import annotations

from pathlib import Path

from rlscale.config.schema import Config
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.leased_folders import Lease, lease, remove_unused
from rlscale.data.folders.served_folder import MADE, served_folder


class ServedFolders:
    """Makes them, where the model's own folder does not do, and leases them until `close`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._leases: list[Lease] = []

    def of(self, config: Config, companions: Companions) -> Path:
        """The folder for engines of that model. OSError when the disk refuses."""
        from rlscale.weights.served_copy import write_served  # imports torch

        model, form = config.model, config.rollout.served_form

        def make() -> Path:
            return served_folder(companions, model.name, model.dtype.value, self._scratch, write_served, form)

        if (made := make()).parent != (self._scratch / MADE).resolve():
            return made  # the model's own folder
        self._leases.append(lease(make))
        remove_unused(made.parent)
        return made

    def close(self) -> None:
        """None of them is needed any more."""
        for leased in self._leases:
            leased.end()

"""Traces of the engines in iterations that are profiled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlscale.config.schema.cluster_config import Device
from rlscale.run.sides.engines import Engines
from rlscale.serve.engine_profile import begin_profile, end_profile
from rlscale.serve.http import CallError
from rlscale.serve.router import at_once


@dataclass
class EngineProfiles:
    """Begins and ends those of all engines of a fleet."""

    engines: Engines
    _begun: tuple[str, ...] = ()
    """Addresses of the engines that record."""

    def begin(self, folder: Path, iteration: int) -> None:
        """Every engine records its first passes from now on. One that cannot is named, and the run goes on."""
        steps, gpu = self.engines.config.profile.engine_steps, self.engines.config.cluster.device is Device.cuda
        begun: list[str] = []

        def start(one: tuple[int, str]) -> None:
            number, url = one
            name = f"iteration_{iteration:06d}.engine-{number}"
            try:
                begin_profile(url, self.engines.api_key or None, folder, name, steps, gpu=gpu)
            except CallError as error:
                self.engines.note(f"no trace of {url}: {error}")
            else:
                begun.append(url)

        if steps:
            folder.mkdir(parents=True, exist_ok=True)
            at_once(start, list(enumerate(self.engines.urls)))
        self._begun = tuple(begun)

    def end(self) -> None:
        """What they have not written yet they write now."""
        at_once(lambda url: end_profile(url, self.engines.api_key or None), self._begun)
        self._begun = ()

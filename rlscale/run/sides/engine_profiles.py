"""Traces of the engines in iterations that are profiled."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from rlscale.config.schema.cluster_config import Device
from rlscale.run.sides.engine_records import Engine
from rlscale.run.sides.engines import Engines
from rlscale.serve.engine_profile import begin_profile, end_profile
from rlscale.serve.http import CallError, Unanswered
from rlscale.serve.router import at_once

_ANSWER_S = 5.0
"""How long the loop waits for the answers of engines. What one was asked it does, too, when it takes longer."""


@dataclass
class EngineProfiles:
    """Begins and ends those of all engines of a fleet. One that has none is named, and the run goes on."""

    engines: Engines
    _begun: list[tuple[Engine, int]] = field(default_factory=list)
    """The engines that record, with how often each had been restarted when it began."""

    def begin(self, folder: Path, iteration: int) -> None:
        """Every engine records its first passes from now on."""
        steps, gpu = self.engines.config.profile.engine_steps, self.engines.config.cluster.device is Device.cuda
        begun: list[tuple[Engine, int]] = []

        def start(engine: Engine) -> None:
            name, restarts = f"iteration_{iteration:06d}.{self._called(engine)}", engine.restarts
            try:
                key = self.engines.api_key or None
                begin_profile(engine.url, key, folder, name, steps, gpu=gpu, timeout_s=_ANSWER_S)
            except Unanswered as error:  # it may begin later, and would never end
                self.engines.note(f"perhaps no trace of {engine.url}: {error}")
            except CallError as error:
                self.engines.note(f"no trace of {engine.url}: {error}")
                return
            begun.append((engine, restarts))

        if steps:
            folder.mkdir(parents=True, exist_ok=True)
            at_once(start, self.engines.members)
        self._begun = begun

    def end(self) -> None:
        """What they have not written yet they write now."""
        there = self.engines.members

        def stop(one: tuple[Engine, int]) -> None:
            engine, restarts = one
            if engine not in there:
                self.engines.note(f"perhaps no trace of {engine.url}: the engine left while it recorded")
            elif engine.restarts > restarts:
                self.engines.note(f"perhaps no trace of {engine.url}: the engine ended while it recorded")
            else:
                try:
                    end_profile(engine.url, self.engines.api_key or None, timeout_s=_ANSWER_S)
                except Unanswered as error:
                    self.engines.note(f"perhaps no trace of {engine.url}: {error}")

        at_once(stop, self._begun)
        self._begun = []

    def _called(self, engine: Engine) -> str:
        """A name that no other engine has in any iteration, whoever joins or leaves."""
        if engine.spec is not None:
            return engine.spec.name
        given = [url.rstrip("/") for url in self.engines.config.rollout.engine_urls]
        number = given.index(engine.url) if engine.url in given else engine.url.rpartition("//")[2]
        return re.sub(r"[^\w.-]+", "-", f"engine-{number}")

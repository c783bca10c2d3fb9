"""The models that a run serves beside the policy (`rollout.models`), each on a fleet of its own like the policy's.

Rewards and environments ask them by name (rlscale.envs.served_models); this tells the rollout where they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rlscale.config.schema import Config
from rlscale.config.schema.rollout_config import Concurrency, OnSync
from rlscale.data.model_folder import find_model
from rlscale.envs.served_models import Address
from rlscale.families.served_form import WeightForm
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.calls import Calls
from rlscale.run.engine_side import EngineSide
from rlscale.run.engines import Engines
from rlscale.run.forks import Forks
from rlscale.run.placement import Layout
from rlscale.run.rollout import Rollout

LOGS = "models"
"""Folder below the run's logs with one for each model."""
_LOOK_EVERY_S = 1.0


def serving_beside(config: Config, name: str) -> Config:
    """The configuration of the fleet that serves the model of that name in `rollout.models`.

    Nobody trains on what it generates, so nothing is asked of its engines that the policy's must be able to do.
    """
    model = config.rollout.models[name]
    rollout = replace(
        config.rollout,
        engines=model.engines,
        gpus_per_engine=model.gpus_per_engine,
        threads_per_engine=model.threads_per_engine,
        engine_urls=model.engine_urls,
        engine_key_file=model.engine_key_file,
        sglang={"served_model_name": name, **model.sglang},
        router={"policy": "round_robin", **model.router},
        weights=WeightForm.as_trained,
        concurrency=Concurrency.fixed,
        on_sync=OnSync.wait,
        models={},
    )
    return replace(config, rollout=rollout, model=replace(config.model, dtype=model.dtype or config.model.dtype))


class ModelsBeside:
    """Every model of `rollout.models`. `launch` starts them without waiting, `ready` waits."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        nodes: list[str],
        calls: Calls,
        logs: Path,
        scratch: Path,
        note: Callable[[str], None],
        forks: Forks,
        reserved: frozenset[int] = frozenset(),
    ) -> None:
        """`reserved`: machines whose GPUs the policy's fleet reserved already."""
        self._models = config.rollout.models
        self._fleets: dict[str, Engines] = {}
        self._told: list[Rollout] = []
        self._next_look = 0.0
        for name in self._models:
            self._fleets[name] = Engines(
                serving_beside(config, name),
                replace(layout, engines=layout.beside.get(name, ())),
                nodes,
                calls,
                logs / LOGS / name,
                scratch,
                _prefixed(name, note),
                forks,
                reserved,
                section=f"rollout.models.{name}",
                trained_on=False,
                restarted_with="the weights of its folder",
            )

    @property
    def restarts(self) -> int:
        """Servers of theirs that died and were started again."""
        return sum(fleet.restarts for fleet in self._fleets.values())

    def launch(self) -> None:
        """Begin to start the engines and the router of each. UserError where a model's folder is of no use."""
        for name, fleet in self._fleets.items():
            path = self._models[name].path
            if self._models[name].engine_urls:
                fleet.launch(path or "")
            else:
                fleet.launch(str(find_model(str(path), f"rollout.models.{name}.path")))

    def ready(self) -> None:
        """Wait until all of them answer."""
        for fleet in self._fleets.values():
            fleet.ready()

    def tell(self, rollout: Rollout) -> None:
        """Tell a rollout service where they are, now and whenever one moves."""
        self._told.append(rollout)
        for name, fleet in self._fleets.items():
            rollout.tell_model(name, _address(fleet))

    def mend(self, *, now: bool = False) -> None:
        """Start again what is down: looked at once a second, unless it must be `now`. See `Engines.heal`."""
        if time.monotonic() < self._next_look and not now:
            return
        for name, fleet in self._fleets.items():
            fleet.heal(_keeps_its_weights, lambda _, name=name, fleet=fleet: self._moved(name, fleet))
        self._next_look = time.monotonic() + _LOOK_EVERY_S

    def close(self) -> None:
        """End every server of theirs that this run started."""
        for fleet in self._fleets.values():
            fleet.close()

    def _moved(self, name: str, fleet: Engines) -> None:
        for rollout in self._told:
            rollout.tell_model(name, _address(fleet))


class WithModelsBeside:
    """The engines' side of a run that serves further models: they are mended with the policy's engines."""

    def __init__(self, side: EngineSide, models: ModelsBeside) -> None:
        self.shares_devices = side.shares_devices
        self._side, self._models = side, models

    def mend(self, version: int, *, now: bool = False) -> bool:
        """See EngineSide."""
        self._models.mend(now=now)
        return self._side.mend(version, now=now)

    def send(self, version: int) -> dict[str, float]:
        """See EngineSide. The others keep their weights."""
        return self._side.send(version)

    def make_way(self) -> None:
        """See EngineSide. The others have devices of their own."""
        self._side.make_way()

    def come_back(self) -> None:
        """See EngineSide."""
        self._side.come_back()

    def leave(self) -> None:
        """See EngineSide."""
        self._side.leave()

    def evaluate(self, version: int, meanwhile: Callable[[], None], name: str = "") -> EvalResult:
        """See EngineSide."""
        return self._side.evaluate(version, meanwhile, name)


def _address(fleet: Engines) -> Address:
    return Address(fleet.router_url, fleet.api_key or None)


def _keeps_its_weights(urls: Sequence[str]) -> None:
    """An engine that was started again has read the folder of its model, which never changes."""


def _prefixed(name: str, note: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: note(f"{name}: {text}")

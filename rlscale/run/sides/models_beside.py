"""The models that a run serves beside the policy (`rollout.models`), each on a fleet of its own like the policy's.

Rewards and environments ask them by name (rlscale.envs.served_models); this tells the rollout where they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rlscale.config.derived.serving_beside import serving_beside
from rlscale.config.schema import Config
from rlscale.data.folders.model_folder import find_served
from rlscale.envs.served_models import Address
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.sides.engine_side import EngineSide, RunningEngines
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.run_context import RunContext
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.run.sides.weight_sync import WeightSync

LOGS = "models"
"""Folder below the run's logs with one for each model."""
_LOOK_EVERY_S = 1.0


class ModelsBeside:
    """Every model of `rollout.models`. `launch` starts them without waiting, `ready` waits."""

    def __init__(self, config: Config, context: RunContext, reserved: frozenset[int] = frozenset()) -> None:
        """`context`: the run's. `reserved`: machines whose GPUs the policy's fleet reserved already."""
        self._models = config.rollout.models
        self._fleets: dict[str, Engines] = {}
        self._following: dict[str, RunningEngines] = {}
        self._told: list[Rollout] = []
        self._next_look = 0.0
        self._reserved = reserved
        for name, model in self._models.items():
            own = context.for_fleet(name, context.logs / LOGS / name, context.layout.beside.get(name, ()))
            self._fleets[name] = own.fleet(
                serving_beside(config, name),
                reserved=reserved,
                section=f"rollout.models.{name}",
                trained_on=False,
                restarted_with="the current weights" if model.follows_policy else "its weights",
            )

    @property
    def restarts(self) -> int:
        """Servers of theirs that died and were started again."""
        return sum(fleet.restarts for fleet in self._fleets.values())

    def launch(self, policy: str) -> None:
        """Begin to start the engines and the router of each. `policy`: the folder that the policy's engines start from.

        UserError where a model's folder is of no use.
        """
        for name, fleet in self._fleets.items():
            model = self._models[name]
            fleet.reserved |= self._reserved
            if model.follows_policy:
                fleet.launch(policy)
            elif model.engine_urls:
                fleet.launch(model.path or "")
            else:
                fleet.launch(str(find_served(str(model.path), f"rollout.models.{name}.path", model.sglang)))
            self._reserved = fleet.machines

    def ready(self) -> None:
        """Wait until all of them answer."""
        for fleet in self._fleets.values():
            fleet.ready()

    def follow(self, trainer: TrainerGroup, rollout: Rollout, sync: Callable[[Config, Engines], WeightSync]) -> None:
        """Give those that follow the policy the trainer's weights from now on; `sync` makes what brings them there."""
        for name, fleet in self._fleets.items():
            if self._models[name].follows_policy:
                self._following[name] = RunningEngines(
                    trainer,
                    fleet,
                    rollout,
                    sync(fleet.config, fleet),
                    shares_devices=False,
                    redirect=self._moves(name),
                )

    def tell(self, rollout: Rollout) -> None:
        """Tell a rollout service where they are, now and whenever one moves."""
        self._told.append(rollout)
        for name, fleet in self._fleets.items():
            rollout.tell_model(name, _address(fleet))

    def mend(self, version: int, *, now: bool = False) -> None:
        """Start again what is down: looked at once a second, unless it must be `now`. See `Engines.heal`.

        `version`: of the trainer's weights, for those that follow the policy.
        """
        if time.monotonic() < self._next_look and not now:
            return
        for name, fleet in self._fleets.items():
            if name in self._following:
                self._following[name].mend(version, now=True)
            else:
                fleet.heal(_keeps_its_weights, self._moves(name))
        self._next_look = time.monotonic() + _LOOK_EVERY_S

    def update_weights(self, version: int) -> dict[str, float]:
        """Give those that follow the policy the trainer's weights as `version`; metrics of that, and of all loads."""
        found = {name: side.update_weights(version) for name, side in self._following.items()}
        for rollout in self._told[:1]:
            for name, load in rollout.model_loads().items():
                found[name] = {**found.get(name, {}), **vars(load)}
        for name, fleet in self._fleets.items():
            found[name] = {**found.get(name, {}), "restarts": float(fleet.restarts)}
        return {f"models/{name}/{metric}": value for name, told in found.items() for metric, value in told.items()}

    def close(self) -> None:
        """End every server of theirs that this run started."""
        for fleet in self._fleets.values():
            fleet.close()

    def _moves(self, name: str) -> Callable[[str], None]:
        """What tells everybody where a model is whose router was started again."""

        def redirect(_: str) -> None:
            for rollout in self._told:
                rollout.tell_model(name, _address(self._fleets[name]))

        return redirect


class WithModelsBeside:
    """The engines' side of a run that serves further models, which are looked after when the policy's engines were."""

    def __init__(self, side: EngineSide, models: ModelsBeside) -> None:
        self.shares_devices = side.shares_devices
        self._side, self._models = side, models

    def mend(self, version: int, *, now: bool = False) -> bool:
        """See EngineSide."""
        looked = self._side.mend(version, now=now)
        self._models.mend(version, now=now)
        return looked

    def update_weights(self, version: int) -> dict[str, float]:
        """See EngineSide. With metrics of the others."""
        return self._side.update_weights(version) | self._models.update_weights(version)

    def make_way(self) -> None:
        """See EngineSide. The others have devices of their own."""
        self._side.make_way()

    def come_back(self) -> None:
        """See EngineSide."""
        self._side.come_back()

    def end(self) -> None:
        """See EngineSide."""
        self._models.close()
        self._side.end()

    def leave(self) -> None:
        """See EngineSide."""
        self.end()
        self._side.leave()

    def begin_profile(self, folder: Path, iteration: int) -> None:
        """See EngineSide. The policy's are recorded, not the others."""
        self._side.begin_profile(folder, iteration)

    def end_profile(self) -> None:
        """See EngineSide."""
        self._side.end_profile()

    def evaluate(self, version: int, meanwhile: Callable[[], None], name: str = "") -> EvalResult:
        """See EngineSide."""
        return self._side.evaluate(version, meanwhile, name)


def _address(fleet: Engines) -> Address:
    return Address(fleet.router_url, fleet.api_key or None, fleet.started_from or "")


def _keeps_its_weights(urls: Sequence[str]) -> None:
    """An engine that was started again has read the folder of its model, which never changes."""

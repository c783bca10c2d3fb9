"""The engines' side of a run, as its loop sees it: alive, holding the weights, taking turns, measured. Or not there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from rlscale.config.errors import UserError
from rlscale.observe.load_log import RESTARTS
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.sides.engine_profiles import EngineProfiles
from rlscale.run.sides.engines import MEMORY, Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.membership import Membership
from rlscale.run.sides.sync_waves import SyncWaves
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.run.sides.weight_sync import WeightSync

_HEAL_EVERY_S = 1.0
_DEATH_SHOWS_S = 5.0


class EngineSide(Protocol):
    """What a session that trains asks of its engines."""

    shares_devices: bool
    """Whether they take turns with the trainer on the same devices."""

    def mend(self, version: int, *, now: bool = False) -> bool:
        """Bring engines that are down back with the trainer's weights as `version`; whether they were looked at.

        Between the polls of a wait that is once a second, unless it must be `now`.
        """

    def update_weights(self, version: int) -> dict[str, float]:
        """Give every engine the trainer's weights as `version`; metrics of it."""

    def make_way(self) -> None:
        """Engines, idle now, give up their memory, the trainer's state comes back."""

    def come_back(self) -> None:
        """The trainer's state goes to host memory, engines take their cache back."""

    def end(self) -> None:
        """The run ends: engines end, whatever they do. One that is frozen would keep the rank that sends it weights."""

    def leave(self) -> None:
        """The same, and the trainer has the devices that they shared."""

    def begin_profile(self, folder: Path, iteration: int) -> None:
        """What engines compute first for an iteration is recorded, and written into the folder."""

    def end_profile(self) -> None:
        """The iteration has its responses: what is not written of the record is written now."""

    def evaluate(self, version: int, meanwhile: Callable[[], None], name: str = "") -> EvalResult:
        """Measure the engines' weights on the evaluation set `name`; `meanwhile` runs while waiting."""


class NoEngines:
    """The side of a run that generates nothing: there is nothing to do."""

    shares_devices = False

    def mend(self, version: int, *, now: bool = False) -> bool:
        """Nobody dies."""
        return False

    def update_weights(self, version: int) -> dict[str, float]:
        """Nobody needs the weights."""
        return {}

    def make_way(self) -> None:
        """The devices are the trainer's."""

    def come_back(self) -> None:
        """They stay the trainer's."""

    def end(self) -> None:
        """There are none."""

    def leave(self) -> None:
        """They are the trainer's."""

    def begin_profile(self, folder: Path, iteration: int) -> None:
        """Nobody computes."""

    def end_profile(self) -> None:
        """Nobody computes."""

    def evaluate(self, version: int, meanwhile: Callable[[], None], name: str = "") -> EvalResult:
        """Refused: a run that evaluates has engines."""
        raise RuntimeError("an evaluation without engines")


class RunningEngines:
    """Engines, the rollout service that talks to them, and the sync that gives them weights."""

    def __init__(
        self,
        trainer: TrainerGroup,
        engines: Engines,
        rollout: Rollout,
        sync: WeightSync | SyncWaves,
        *,
        shares_devices: bool,
        redirect: Callable[[str], None] | None = None,
        membership: Membership | None = None,
    ) -> None:
        """`redirect` is told where a router is that was started again; by default the rollout is.

        `membership`: who joins and leaves.
        """
        self._membership = membership
        self.shares_devices = shares_devices
        self._redirect = redirect or rollout.redirect
        self._trainer, self._engines, self._rollout, self._sync = trainer, engines, rollout, sync
        self._profiles = EngineProfiles(engines)
        self._trainer_sleeps = False
        self._next_look = 0.0

    def mend(self, version: int, *, now: bool = False) -> bool:
        """See EngineSide."""
        if time.monotonic() < self._next_look and not now:
            return False
        self._engines.heal(lambda urls: self._give_weights(version, urls), self._redirect)
        if self._membership is not None:
            self._membership.look(lambda urls: self._give_weights(version, urls))
        self._next_look = time.monotonic() + _HEAL_EVERY_S
        return True

    def update_weights(self, version: int) -> dict[str, float]:
        """See EngineSide. If an engine died under it, that engine is mended and the weights are sent once more."""
        return self._updated(version) | _restarts(self._engines)

    def _updated(self, version: int) -> dict[str, float]:
        self.mend(version, now=True)
        try:
            return self._sent(version)
        except UserError:
            # A killed engine's connections break before its supervisor sees it dead.
            lost = self._membership is not None and self._membership.lose_unreachable()
            if not lost and not self._engines.down_within(_DEATH_SHOWS_S):
                raise
        self.mend(version, now=True)
        return self._sent(version)

    def _sent(self, version: int) -> dict[str, float]:
        if self.shares_devices:
            self._engines.resume_memory(["weights"])
        return self._sync(version)

    def make_way(self) -> None:
        """See EngineSide."""
        if self.shares_devices:
            self._of_each(self._engines.release_memory, MEMORY)
            self._trainer.call("wake", what="trainer wake")
            self._trainer_sleeps = False

    def come_back(self) -> None:
        """See EngineSide."""
        if self.shares_devices:
            self._trainer_sleeps = True
            self._trainer.call("sleep", what="trainer sleep")
            self._of_each(self._engines.resume_memory, ["kv_cache"])

    def _of_each(self, ask: Callable[..., None], tags: Sequence[str]) -> None:
        """`ask` the engines for something of their memory; without those that are down, which are mended later."""
        try:
            ask(tags)
        except UserError:
            if not self._engines.down_within(_DEATH_SHOWS_S):
                raise
            ask(tags, of_the_living=True)

    def end(self) -> None:
        """See EngineSide."""
        self._engines.close()

    def leave(self) -> None:
        """See EngineSide. One that is frozen would not give up its memory by itself."""
        self.end()
        if self.shares_devices:
            self._trainer.call("wake", what="trainer wake")
            self._trainer_sleeps = False

    def begin_profile(self, folder: Path, iteration: int) -> None:
        """See EngineSide."""
        self._profiles.begin(folder, iteration)

    def end_profile(self) -> None:
        """See EngineSide."""
        self._profiles.end()

    def evaluate(self, version: int, meanwhile: Callable[[], None], name: str = "") -> EvalResult:
        """See EngineSide."""
        result: EvalResult = self._rollout.evaluate(version, meanwhile, name)
        return result

    def _give_weights(self, version: int, urls: list[str]) -> None:
        asleep = self._trainer_sleeps
        if asleep:
            self._trainer.call("wake", what="trainer wake")
        try:
            self._sync(version, urls)
        finally:  # the run may go on without these engines, and others generate in the memory
            if asleep:
                self._trainer.call("sleep", what="trainer sleep")


class SteadyEngines:
    """Engines that keep the weights of the folder that they serve: those of a run that only generates."""

    def __init__(self, engines: Engines, rollout: Rollout, mend_beside: Callable[[], None] | None = None) -> None:
        """`mend_beside` looks after the models beside the policy."""
        self._engines, self._rollout, self._mend_beside = engines, rollout, mend_beside
        self._next_look = 0.0

    def mend(self) -> None:
        """Bring engines that are down back, which then have the weights of their folder; looks once a second."""
        if time.monotonic() >= self._next_look:
            self._engines.heal(lambda urls: None, self._rollout.redirect)
            if self._mend_beside is not None:
                self._mend_beside()
            self._next_look = time.monotonic() + _HEAL_EVERY_S

    def metrics(self) -> dict[str, float]:
        """How often engines were started again, of those that were."""
        return _restarts(self._engines)


def _restarts(engines: Engines) -> dict[str, float]:
    return {f"{RESTARTS}{url.rpartition('//')[2]}": float(times) for url, times in engines.restarts_of.items()}

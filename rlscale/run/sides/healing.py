"""Bringing servers of a fleet back that are down: which of them at once, and what each needs before it works again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rlscale.config.errors import UserError, first_line
from rlscale.config.schema import Config
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sides.engine_records import Down, Engine
from rlscale.run.sides.launchers import AT_ONCE
from rlscale.run.sides.restart_budget import RestartBudget
from rlscale.serve.http import CallError, Unanswered
from rlscale.serve.supervisor import DIED, ROUTER

_DEATH_SHOWS_S = 5.0
_LOOK_EVERY_S = 1.0
_LEFT_OUT = "is left out by the router"


class RestartOrder:
    """What is restarted next: the router first, since engines are taken from it; then all that ended; then the silent.

    Of the silent one is restarted alone at first. The others may have been silent only because they waited for it.
    """

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.down: set[str] = set()
        """All that were down at the last look, and were not tried before."""
        self._one_was_silent = False

    def next(self, down: Sequence[Down], most: int) -> list[Down]:
        """Of what is down what is to be restarted now, at most so many; nothing where all was tried."""
        left = [one for one in down if one.name not in self.tried]
        self.down = {one.name for one in left}
        router = [one for one in left if one.name == ROUTER]
        ended = [one for one in left if one.why == DIED]
        if not (chosen := router or ended) and left:
            chosen = left if self._one_was_silent else left[:1]
            self._one_was_silent = True
        of_machine: Counter[int] = Counter()
        found = []
        for one in chosen[:most]:
            of_machine[id(one.launcher)] += 1
            if of_machine[id(one.launcher)] <= AT_ONCE:
                found.append(one)
        self.tried.update(one.name for one in found)
        return found


class Fleet(Protocol):
    """What is needed of `rlscale.run.sides.engines.Engines`, which says more of each."""

    config: Config
    calls: Calls
    logs: Path
    router_url: str
    restarts: int
    budget: RestartBudget
    restarted_with: str

    @property
    def note(self) -> Callable[[str], None]: ...

    @property
    def urls(self) -> list[str]: ...

    @property
    def members(self) -> list[Engine]: ...

    @property
    def fewest(self) -> int: ...

    def down(self, loading: bool = False) -> list[Down]: ...

    def down_within(self, seconds: float, urls: Sequence[str] | None = None) -> bool: ...

    def named(self, name: str) -> Engine: ...

    def withdraw(self, urls: Sequence[str]) -> None: ...

    def admitted(self, urls: Sequence[str], look: Callable[[], dict[str, UserError]]) -> dict[str, UserError]: ...

    def let_go(self, url: str) -> None: ...


class Healing:
    """One time that a fleet is mended."""

    def __init__(
        self, fleet: Fleet, give_weights: Callable[[list[str]], None], redirect: Callable[[str], None]
    ) -> None:
        self._fleet, self._give_weights, self._redirect = fleet, give_weights, redirect
        self._order = RestartOrder()

    def run(self) -> None:
        """See Engines.heal. What is down is asked anew after each restart."""
        fleet = self._fleet
        together = fleet.config.rollout.disaggregated
        while batch := self._order.next(self._down(), 1 if together else len(fleet.members) + 1):
            fleet.calls.check_stop()
            cluster = fleet.config.cluster
            bound = cluster.engine_restarts, cluster.start_timeout_s
            again = [one for one in batch if fleet.budget.left(one.name, *bound) > 0]
            for one in batch:
                if one not in again:
                    self._go_on_without(one)
            if again:
                self._spend(again)
                if again[0].name != ROUTER and together:
                    self._order.tried.update(engine.spec.name for engine in fleet.members if engine.spec is not None)
                    self._restart_together(again[0])
                else:
                    self._restart(again)

    def _spend(self, batch: Sequence[Down]) -> None:
        for one in batch:
            self._fleet.budget.spend(one.name)
        self._fleet.restarts += len(batch)

    def _down(self) -> list[Down]:
        """What is down; engines, too, that the router does not know: they got no weights, or did not answer it."""
        down = self._fleet.down()
        names = {one.name for one in down}
        for engine in self._fleet.members:
            if engine.away and engine.spec is not None and engine.spec.name not in names:
                down.append(Down(engine.launcher, engine.spec.name, _LEFT_OUT))
        return down

    def _go_on_without(self, one: Down) -> None:
        """No restart is left. RunFailed unless the run may go on without this engine."""
        fleet = self._fleet
        if one.name == ROUTER or len(fleet.members) <= fleet.fewest or fleet.config.rollout.disaggregated:
            raise RunFailed(
                f"{one.name} {one.why} and cluster.engine_restarts={fleet.config.cluster.engine_restarts} restarts are "
                f"used up, which it had within an hour; see {fleet.logs / f'{one.name}.log'}"
            )
        fleet.note(f"{one.name} {one.why}; no restart is left, and the run goes on without it")
        url = fleet.named(one.name).url
        with suppress(CallError):  # a router that is down, too, learns its engines anew
            fleet.withdraw([url])
        fleet.let_go(url)

    def _restart(self, batch: Sequence[Down]) -> None:
        """Restart these beside each other, and let those that come back work again."""
        fleet, restarts = self._fleet, []
        for number, one in enumerate(batch):
            fleet.note(f"{one.name} {one.why}; restarting it")
            try:
                if one.name != ROUTER:  # it comes back with old weights, perhaps on its old port
                    engine = fleet.named(one.name)
                    fleet.withdraw([engine.url])
                    engine.away = True
                restarts.append((one.name, one.launcher.call.remote("restart", one.name, one.why)))
            except UserError as error:
                self._stays_away(one.name, error)
                if self._router_comes_first(batch[number:], error):
                    break
        back: list[tuple[Engine, str]] = []
        for name, restart in restarts:
            try:
                url = fleet.calls.one(restart, f"restart of {name}", heed_stop=True)
            except UserError as error:
                self._stays_away(name, error)
                continue
            if name == ROUTER:
                self._welcome_router(url)
            else:
                back.append((fleet.named(name), url))
        self._welcome(back)

    def _router_comes_first(self, left: Sequence[Down], error: UserError) -> bool:
        """Whether the router, being down itself, did not let an engine go: these have their turn after it then."""
        if ROUTER in self._order.tried or self._router_that_is_down([error]) is None:
            return False
        self._order.tried -= {one.name for one in left}
        for one in left:
            self._fleet.budget.give_back(one.name)
        self._fleet.restarts -= len(left)
        return True

    def _stays_away(self, name: str, error: UserError) -> None:
        self._fleet.note(f"{name} did not come back ({first_line(error)})")

    def _welcome_router(self, url: str) -> None:
        """The router is back without workers: give it those that live."""
        fleet = self._fleet
        fleet.router_url = url
        self._redirect(url)
        down = self._order.down
        here = [one for one in fleet.members if not one.away]  # the others have old weights, perhaps
        if self._admit([one for one in here if one.spec is None or one.spec.name not in down]):
            fleet.note("router is back")

    def _admit(self, engines: Sequence[Engine]) -> bool:
        """Let the router send them requests. One that is stuck, which nobody has seen yet, is left to the next look.

        False where the router itself is down again: nothing is wrong with them then, and its next return admits them.
        """
        fleet, urls = self._fleet, [engine.url for engine in engines]
        next_look = time.monotonic() + _LOOK_EVERY_S

        def look() -> dict[str, UserError]:
            nonlocal next_look
            if time.monotonic() < next_look:
                return {}
            down = fleet.down()
            next_look = time.monotonic() + _LOOK_EVERY_S
            found = {one.name: UserError(f"{one.name} {one.why}") for one in down}
            if (router := found.pop(ROUTER, None)) is not None:
                return dict.fromkeys(urls, router)
            return {fleet.named(name).url: error for name, error in found.items()}

        failed = fleet.admitted(urls, look)
        router = self._router_that_is_down(failed.values())
        for engine in engines:
            if router is not None:
                engine.away = False
            elif engine.url in failed and engine.spec is not None:  # a guest may be gone, too
                engine.away = True
                self._stays_away(engine.spec.name, failed[engine.url])
        if router is not None:
            self._stays_away(ROUTER, UserError(f"it {router.why}"))
        return router is None

    def _router_that_is_down(self, errors: Iterable[UserError]) -> Down | None:
        """The router where it is why engines could not be added. One that was killed is seen to be down a bit later."""
        errors = list(errors)
        waits = any(isinstance(error, Unanswered) for error in errors) and not self._fleet.calls.stopping
        give_up = time.monotonic() + (_DEATH_SHOWS_S if waits else 0.0)
        while errors:
            for one in self._fleet.down():
                if one.name == ROUTER:
                    return one
            if time.monotonic() >= give_up:
                break
            time.sleep(0.1)
        return None

    def _welcome(self, back: Sequence[tuple[Engine, str]]) -> None:
        """Engines run again: they get the weights, all at once, and then requests.

        One that is down again before it has them is left to the next look.
        """
        fleet = self._fleet
        for engine, url in back:
            engine.is_back(url)
        there = [engine for engine, _ in back]
        while there:
            urls = [engine.url for engine in there]
            try:
                self._give_weights(urls)
                break
            except UserError as error:
                if not fleet.down_within(_DEATH_SHOWS_S, urls):  # others that are down say nothing of these
                    raise
                gone = {one.name for one in fleet.down()}
                live = [engine for engine in there if engine.spec is None or engine.spec.name not in gone]
                if len(live) == len(there):
                    raise
                for engine in there:
                    if engine not in live and engine.spec is not None:
                        self._stays_away(engine.spec.name, error)
                there = live
        self._admit(there)
        for engine in there:
            if engine.spec is not None and not engine.away:
                fleet.note(f"{engine.spec.name} is back with {fleet.restarted_with}")

    def _restart_together(self, down: Down) -> None:
        """An engine that does a part of each request ended: start all of them anew, with the same weights.

        One alone would come back with the trainer's present weights, and be given keys and values of older ones. Where
        one does not come back, or is down again before it has the weights, all are started again at the next look: the
        router knows none of them until then.
        """
        fleet, restarts = self._fleet, []
        fleet.note(f"{down.name} {down.why}; restarting all engines, which hold parts of the same requests")
        try:
            # before any is restarted: else one would come back unwatched if the router fails
            fleet.withdraw(fleet.urls)
            for engine in fleet.members:
                engine.away = True
                assert engine.spec is not None  # engines of somebody else have no roles
                why = down.why if engine.spec.name == down.name else f"works with {down.name}, which {down.why}"
                restarts.append(engine.launcher.call.remote("restart", engine.spec.name, why))
            urls = fleet.calls.wait(restarts, f"restart after {down.name}", heed_stop=True)
        except UserError as error:
            fleet.note(f"the engines did not come back ({first_line(error)})")
            return
        for engine, url in zip(fleet.members, urls, strict=True):
            engine.is_back(url)
        try:
            self._give_weights(fleet.urls)
        except UserError as error:
            if not fleet.down_within(_DEATH_SHOWS_S, fleet.urls):
                raise
            fleet.note(f"the engines did not get the weights ({first_line(error)})")
            return
        self._admit(fleet.members)
        if not any(engine.away for engine in fleet.members):
            fleet.note(f"all engines are back with {fleet.restarted_with}")

"""Engines that join a run while it goes on, and leave it: looked at beside everything else, once a second.

An engine that joins is looked at, given the current weights and only then asked. One that leaves is asked nothing more;
what it generates is cut off and goes on in others. One that somebody else started leaves by itself where it answers no
more, or gives its requests no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from rlscale.config.checks.elastic_engines import BY_FILES
from rlscale.config.errors import UserError, first_line
from rlscale.config.schema.component import TARGET
from rlscale.run.disk.membership_orders import EngineOrders, Order, Present, Told, same_place
from rlscale.run.processes.remote_calls import ProcessLost
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.guest import Guest
from rlscale.run.sides.spare_machines import SpareMachines
from rlscale.serve.http import CallError, Unanswered, told
from rlscale.serve.pulse import answers

_ASKED_S = 10.0
_SILENT_S = 5.0
_RUN, _SOMEBODY = "the run", "somebody else"
GiveWeights = Callable[[list[str]], None]


@dataclass
class Membership:
    """Who belongs to the run's engines."""

    engines: Engines
    rollout: Rollout
    orders: EngineOrders
    note: Callable[[str], None]
    machines: SpareMachines | None = None
    """Where the run starts engines by itself."""
    _done: dict[str, str] = field(default_factory=dict)
    """By the URL of an engine the order that was followed last."""
    _watched: dict[str, Guest] = field(default_factory=dict)
    _complained: set[str] = field(default_factory=set)
    _present: list[Present] | None = None
    _count: int | None = None
    """Engines that the rollout knows of, once there were others than at the start."""

    def look(self, give_weights: GiveWeights) -> None:
        """Follow new orders, and do without engines that answer no more. `give_weights` gives some the current ones.

        Not in a run that is to end.
        """
        if self.engines.calls.stopping:
            return
        for order in self._new_orders():
            self._done[order.url] = order.id
            answer = self._joined(order, give_weights) if order.wanted else self._left(order.url)
            if answer.state == "refused":
                self.note(f"{order.url} does not {'join' if order.wanted else 'leave'}: {answer.why}")
            with suppress(OSError):  # a full disk keeps nobody from joining
                self.orders.answer(order, answer)
        for url in self.machines.look() if self.machines is not None else ():
            self._take_own(url, give_weights)
        guests = {url: self._guest(url) for url in self.engines.guests}
        wrong = {url: guest.wrong(self.engines.calls.patience_s) for url, guest in guests.items()}
        self._lose({url: why for url, why in wrong.items() if why is not None})
        for url, guest in guests.items():
            if wrong[url] is None and guest.restarted:
                guest.restarted = not self._renewed(url, give_weights)
        self._tell_count()

    def _take_own(self, url: str, give_weights: GiveWeights) -> None:
        """An engine that was started on a spare machine joins as others do, or ends."""
        answer = self._joined(Order(url, True, ""), give_weights)
        if answer.state == "refused":
            self.note(f"{url} does not join: {answer.why}")
            self._ends(url)

    def _renewed(self, url: str, give_weights: GiveWeights) -> bool:
        """Give a guest that was started again, and has the weights of its folder, those of the run.

        False where that is to be tried again: the run needs it, or the router was not there.
        """
        try:
            self.engines.withdraw([url])
            give_weights([url])
            self.engines.admit([url])
        except ProcessLost:  # of a rank: nothing is wrong with the engine
            raise
        except UserError as error:
            return self._lose({url: f"was started again and is of no use now ({first_line(error)})"})
        self.note(f"{url} was started again, and has {self.engines.restarted_with}")
        return True

    def _ends(self, url: str) -> bool:
        """Whether an engine that left was one of the run's on a spare machine, which ends then."""
        return self.machines is not None and self.machines.lost(url)

    def lose_unreachable(self) -> bool:
        """Do without the guests that nobody reaches, as far as the run can; whether there was one."""
        gone = {}
        for url in self.engines.guests:
            try:
                answers(url, "/health", None, 2.0)
            except Unanswered:
                gone[url] = "is not there"
        return self._lose(gone)

    def _new_orders(self) -> list[Order]:
        """Those that were not followed yet. What was refused is not tried again by a run that continues."""
        new = []
        try:
            for order in self.orders.orders():
                if self._done.get(order.url) == order.id:
                    continue
                if any(answer.state == "refused" for answer in self.orders.told(order)):
                    self._done[order.url] = order.id
                else:
                    new.append(order)
        except (UserError, OSError) as error:  # those before it are followed
            self._complain(str(error))
        return new

    def _joined(self, order: Order, give_weights: GiveWeights) -> Told:
        url, engines = order.url, self.engines
        most = engines.config.rollout.engines_at_most
        if self._known(url) is not None:
            return Told(url, "serving")
        try:
            if most is None:
                raise UserError("rollout.engines_at_most is not given, and so none may join this run")
            if len(engines.urls) >= most:
                raise UserError(f"there are {len(engines.urls)} engines already (rollout.engines_at_most)")
            engines.meet(url)
            engines.calls.aside(lambda: self._refuse_ranks(url), url, 2 * _ASKED_S)
            engines.take_in(url, give_weights)
        except UserError as error:
            with suppress(CallError):  # the router may be about to know it
                engines.withdraw([url])
            return Told(url, "refused", first_line(error).removeprefix("rollout.engine_urls: "))
        self._watched.pop(url, None)
        self._counted(f"{url} has joined with {engines.restarted_with}")
        return Told(url, "serving")

    def _known(self, url: str) -> str | None:
        """The address by which the run knows that engine; None if it is not among its own."""
        return next((known for known in self.engines.urls if same_place(url, known)), None)

    def _left(self, ordered: str) -> Told:
        engines, url = self.engines, self._known(ordered)
        if url is None:
            return Told(ordered, "left")
        if len(engines.urls) <= engines.fewest:
            return Told(url, "refused", f"the run needs {engines.fewest} engines (rollout.engines_at_least)")
        try:
            engines.withdraw([url])
            self.rollout.leave([url])
        except UserError as error:
            with suppress(CallError):
                engines.admit([url])
            return Told(url, "refused", first_line(error))
        engines.let_go(url)
        self._ends(url)
        self._counted(f"{url} has left")
        return Told(url, "left")

    def _lose(self, gone: Mapping[str, str]) -> bool:
        """Go on without these guests, by what is wrong with each, as far as the run has more than it needs.

        Whether it does without any: what was under way in all of them is cut off once.
        """
        spare = max(len(self.engines.urls) - self.engines.fewest, 0)
        leaving, needed = list(gone)[:spare], list(gone)[spare:]
        for url in needed:
            self._complain(f"{url} {gone[url]}; the run waits for it: it needs {self.engines.fewest} engines")
        if not leaving:
            return False
        with suppress(CallError):
            self.engines.withdraw(leaving)
        for url in leaving:
            self.engines.let_go(url)
        self.rollout.give_up(leaving)
        for url in leaving:
            again = "" if self._ends(url) else f"; `python -m rlscale engines add {url}` takes it in again"
            self._counted(f"{url} {gone[url]}, and has left{again}")
        return True

    def _counted(self, note: str) -> None:
        self._tell_count()
        self.note(f"{note}; engines: {len(self.engines.urls)}")

    def _tell_count(self) -> None:
        """Tell the rollout where there are more or fewer, also because one could not be started again; list them."""
        count = len(self.engines.urls)
        if count != (self._count or self.engines.config.rollout.engine_count):
            self.rollout.engines_are(count)
        self._count = count
        guests = self.engines.guests
        others = set(guests) - (self.machines.urls if self.machines is not None else set())
        now = [
            Present(url, _SOMEBODY if url in others else _RUN, self._state(url, guests)) for url in self.engines.urls
        ]
        if now != self._present:
            with suppress(OSError):
                self.orders.tell_present(now)
                self._present = now

    def _state(self, url: str, guests: list[str]) -> str:
        return "silent" if url in guests and self._guest(url).silence() >= _SILENT_S else "serving"

    def _refuse_ranks(self, url: str) -> None:
        """Only files reach an engine of several ranks without knowing how many they are."""
        ranks = told(url, "/server_info", self.engines.api_key or None, timeout=_ASKED_S).get("tp_size", 1)
        if ranks != 1 and not str(self.engines.config.weights.transport.get(TARGET)).startswith(BY_FILES):
            raise UserError(f"it has tp_size={ranks}, which takes weights/transport=disk, or delta")

    def _guest(self, url: str) -> Guest:
        if url not in self._watched:
            self._watched[url] = Guest(url, self.engines.api_key or None)
        return self._watched[url]

    def _complain(self, what: str) -> None:
        """Say it once."""
        if what not in self._complained:
            self._complained.add(what)
            self.note(what)

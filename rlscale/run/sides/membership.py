"""Engines that join a run while it goes on, and leave it: looked at beside everything else, once a second.

An engine that joins is looked at, given the current weights and only then asked. One that leaves is asked nothing more;
what it generates is cut off and goes on in others. One that somebody else started and that answers no more leaves by
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rlscale.config.errors import UserError
from rlscale.config.schema.component import TARGET
from rlscale.run.disk.membership_orders import EngineOrders, Order, Told
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.serve.http import CallError, Unanswered, call
from rlscale.serve.pulse import Pulse, answers

_PULSE = "/server_info"
_ASKED_S = 10.0
GiveWeights = Callable[[list[str]], None]


@dataclass
class Membership:
    """Who belongs to the run's engines."""

    engines: Engines
    rollout: Rollout
    orders: EngineOrders
    note: Callable[[str], None]
    _done: dict[str, str] = field(default_factory=dict)
    """By the URL of an engine the order that was followed last."""
    _pulses: dict[str, Pulse] = field(default_factory=dict)
    _complained: set[str] = field(default_factory=set)
    _count: int | None = None
    """Engines that the rollout knows of, once there were others than at the start."""

    def look(self, give_weights: GiveWeights) -> None:
        """Follow new orders, and do without engines that answer no more. `give_weights` gives some the current ones.

        Not in a run that is to end.
        """
        if self.engines.calls.stopping:
            return
        try:
            new = [order for order in self.orders.orders() if self._done.get(order.url) != order.id]
        except (UserError, OSError) as error:
            self._complain(str(error))
            new = []
        for order in new:
            self._done[order.url] = order.id
            told = self._joined(order, give_weights) if order.wanted else self._left(order.url)
            if told.state == "refused":
                self.note(f"{order.url} does not {'join' if order.wanted else 'leave'}: {told.why}")
            with suppress(OSError):  # a full disk keeps nobody from joining
                self.orders.answer(order, told)
        for url in self.engines.guests:
            if self._silence(url) >= self.engines.calls.patience_s:
                self._lose(url, "does not answer")
        self._tell_count()

    def lose_unreachable(self) -> bool:
        """Do without the guests that nobody reaches, as far as the run can; whether there was one."""
        lost = False
        for url in self.engines.guests:
            try:
                answers(url, "/health", None, 2.0)
            except Unanswered:
                lost |= self._lose(url, "is not there")
        return lost

    def _joined(self, order: Order, give_weights: GiveWeights) -> Told:
        url, engines = order.url, self.engines
        most = engines.config.rollout.engines_at_most
        if url in engines.urls:
            return Told(url, "serving")
        try:
            if most is None:
                raise UserError("rollout.engines_at_most is not given, and so none may join this run")
            if len(engines.urls) >= most:
                raise UserError(f"there are {len(engines.urls)} engines already (rollout.engines_at_most)")
            engines.meet(url)
            self._refuse_ranks(url)
            engines.take_in(url, give_weights)
        except UserError as error:
            with suppress(CallError):  # the router may be about to know it
                engines.withdraw([url])
            return Told(url, "refused", str(error).removeprefix("rollout.engine_urls: ").splitlines()[0])
        self._pulses.pop(url, None)
        self._counted(f"{url} has joined with {engines.restarted_with}")
        return Told(url, "serving")

    def _left(self, url: str) -> Told:
        engines = self.engines
        if url not in engines.urls:
            return Told(url, "left")
        if len(engines.urls) <= engines.fewest:
            return Told(url, "refused", f"the run needs {engines.fewest} engines (rollout.engines_at_least)")
        try:
            engines.withdraw([url])
            self.rollout.leave([url])
        except UserError as error:
            with suppress(CallError):
                engines.admit([url])
            return Told(url, "refused", str(error).splitlines()[0])
        engines.let_go(url)
        self._counted(f"{url} has left")
        return Told(url, "left")

    def _lose(self, url: str, why: str) -> bool:
        """Go on without a guest; False where the run has no more than it needs."""
        if len(self.engines.urls) <= self.engines.fewest:
            self._complain(f"{url} {why}; the run waits for it: it needs {self.engines.fewest} engines")
            return False
        with suppress(CallError):
            self.engines.withdraw([url])
        self.engines.let_go(url)
        self._counted(f"{url} {why}, and has left; `python -m rlscale engines add {url}` takes it in again")
        return True

    def _counted(self, note: str) -> None:
        self._tell_count()
        self.note(f"{note}; engines: {len(self.engines.urls)}")

    def _tell_count(self) -> None:
        """Tell the rollout where there are more or fewer, also because one could not be started again."""
        count = len(self.engines.urls)
        if count != (self._count or self.engines.config.rollout.engine_count):
            self.rollout.engines_are(count)
        self._count = count

    def _refuse_ranks(self, url: str) -> None:
        """Only files reach an engine of several ranks without knowing how many they are."""
        ranks = call(url, "/server_info", self.engines.api_key or None, timeout=_ASKED_S).get("tp_size", 1)
        if ranks != 1 and "Disk" not in str(self.engines.config.weights.transport.get(TARGET)):
            raise UserError(f"it has tp_size={ranks}, which takes weights/transport=disk")

    def _silence(self, url: str) -> float:
        key = self.engines.api_key or None
        pulse = self._pulses.setdefault(url, Pulse(lambda: answers(url, _PULSE, key, _ASKED_S)))
        return pulse.silence()

    def _complain(self, what: str) -> None:
        """Say it once."""
        if what not in self._complained:
            self._complained.add(what)
            self.note(what)

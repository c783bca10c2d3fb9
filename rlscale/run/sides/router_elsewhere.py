"""A router on another machine than the driver's: it listens there alone, and hears of engines by its launcher."""

from __future__ import annotations

from threading import BoundedSemaphore
from typing import Any

from ray.exceptions import RayError, RayTaskError

from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.actor_host import ActorHost
from rlscale.run.sides.launchers import AT_ONCE
from rlscale.serve.http import CallError, Unanswered
from rlscale.serve.router import Meanwhile, WorkerList, nothing


def turns() -> BoundedSemaphore:
    """For all that talk through one launcher: it answers others beside them."""
    return BoundedSemaphore(AT_ONCE)


class RouterElsewhere(WorkerList):
    """In the place of a `RouterClient`, with the same errors. Calls are short: who waits for the router, waits here."""

    look_every_s = 0.2

    def __init__(self, host: ActorHost, launcher: Any, url: str, turn: BoundedSemaphore | None = None) -> None:
        """`launcher`: of the router's machine. `turn`: shared by all that talk through it."""
        super().__init__(url)
        self._host, self._launcher, self._turn = host, launcher, turn or turns()

    def begin_add(self, url: str, role: Role = Role.regular, meanwhile: Meanwhile = nothing) -> None:
        """See WorkerList."""
        self._told("add_worker", url, role, meanwhile=meanwhile)

    def begin_remove(self, url: str) -> bool:
        """See WorkerList."""
        return bool(self._told("remove_worker", url))

    def healthy(self, url: str, meanwhile: Meanwhile = nothing) -> bool | None:
        """See WorkerList."""
        known: bool | None = self._told("worker_is_healthy", url, meanwhile=meanwhile)
        return known

    def _told(self, method: str, *given: Any, meanwhile: Meanwhile = nothing) -> Any:
        while not self._turn.acquire(timeout=self.look_every_s):
            meanwhile()
        try:
            told = self._launcher.call.remote(method, self.url, *given)
            if not self._host.wait([told], self.timeout)[0]:
                raise Unanswered(f"{self.url}: its launcher did not answer within {self.timeout:g} s")
            return self._host.get(told)
        except RayTaskError as error:
            raise _as_raised(error, self.url) from error
        except RayError as error:
            raise Unanswered(f"{self.url}: its launcher is gone ({type(error).__name__})") from error
        finally:
            self._turn.release()


def _as_raised(error: RayTaskError, router: str) -> CallError:
    """What the launcher raised: Ray's error is of that class, too, but its text is a traceback."""
    cause = error.cause
    if isinstance(cause, Unanswered):
        return Unanswered(str(cause))
    what = (
        str(cause) if isinstance(cause, UserError) else f"{router}: its launcher raised {type(cause).__name__}: {cause}"
    )
    return CallError(what)

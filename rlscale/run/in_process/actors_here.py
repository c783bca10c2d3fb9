"""The actors of a run as objects of this process.

The trainer's calls are made at once and where they are asked for. The rollout service lives on an event loop that turns
while its answers are waited for, in the same thread: whoever stops that one at a breakpoint stops all of it. Engines
are started and watched in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlscale.run.in_process.stacks_here import ProcessesHere
from rlscale.run.in_process.standing_clock import StandingClock, StandingLoop
from rlscale.run.processes.actor_host import Place
from rlscale.run.processes.actor_processes import Processes
from rlscale.run.processes.error_log import ErrorLogHandler, log_errors

_LEAVES_S = 10.0
_INTERFACE = "GLOO_SOCKET_IFNAME"
"""The variable of a rank's environment that is not only read when a process starts."""


class _Here:
    """What makes of an actor's class one that leaves this process its standard output and its name."""

    def _logs_to(self, path: str) -> None:
        """It prints where the driver does; what any of them logs as an error goes to error.log, once."""
        logger = logging.getLogger("rlscale")
        if not any(isinstance(handler, ErrorLogHandler) for handler in logger.handlers):
            logger.addHandler(logging.StreamHandler())
            log_errors(Path(path).parent, "driver")


class _Method:
    def __init__(self, call: Callable[..., asyncio.Future[Any]]) -> None:
        self.remote = call


class _Handle:
    """An actor as its callers see it."""

    def __init__(self, host: ActorsHere, actor: Any, threads: ThreadPoolExecutor | None) -> None:
        self._host, self._actor, self._threads = host, actor, threads

    def __getattr__(self, name: str) -> _Method:
        method = getattr(self._actor, name)
        return _Method(lambda *arguments, **named: self._host.called(self, method, arguments, named))


class ActorsHere:
    """See ActorHost. A context manager; what is left of the actors' work ends with it."""

    def __init__(self, clock: StandingClock) -> None:
        self._clock = clock
        self._loop = StandingLoop(clock)
        self._calls: dict[asyncio.Task[Any], _Handle] = {}

    def __enter__(self) -> ActorsHere:
        return self

    def __exit__(self, *_: object) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def machines(self, count: int, gpus: int) -> list[str]:
        """See ActorHost. This one, and no other."""
        return ["here"] * count

    def standing_in(self, nodes: Sequence[str], used: Collection[int], gpus: int) -> list[str]:
        """See ActorHost. This machine is never gone."""
        return list(nodes)

    def present(self, gpus: int) -> list[str]:
        """See ActorHost."""
        return ["here"]

    def gone(self, nodes: Sequence[str]) -> list[str]:
        """See ActorHost."""
        return []

    def is_here(self, node: str) -> bool:
        """See ActorHost."""
        return True

    def processes(self) -> Processes:
        """See ActorHost."""
        return ProcessesHere(self._loop, self._calls, self._answers)

    def start(self, kind: type, place: Place, *arguments: Any) -> _Handle:
        """See ActorHost. Calls are made at once, unless several may be made, and then in threads."""
        variables = place.runtime_env.get("env_vars", {})
        if _INTERFACE in variables:
            os.environ.setdefault(_INTERFACE, variables[_INTERFACE])
        threads = ThreadPoolExecutor(place.concurrency, kind.__name__) if place.concurrency > 1 else None
        return _Handle(self, type(kind.__name__, (_Here, kind), {})(*arguments), threads)

    def called(
        self, handle: _Handle, method: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """What comes of a call of an actor."""
        if inspect.iscoroutinefunction(method):
            call = self._loop.create_task(_as_sent(method(*arguments, **named)), name=f"call of {method.__qualname__}")
            self._calls[call] = handle
            call.add_done_callback(self._calls.pop)
            return call
        if handle._threads is not None:
            return asyncio.wrap_future(handle._threads.submit(method, *arguments, **named), loop=self._loop)
        done: asyncio.Future[Any] = self._loop.create_future()
        try:
            done.set_result(method(*arguments, **named))
        except SystemExit as error:
            ended = RuntimeError(f"SystemExit: {error}")
            ended.__cause__ = error
            done.set_exception(ended)
        except Exception as error:
            done.set_exception(error)
        done.exception()  # whoever waits is told; where nobody does, Ray says nothing either
        return done

    def check(self) -> None:
        """See ActorHost. What is called lives as long as this process."""

    def put(self, value: Any) -> Any:
        """See ActorHost."""
        return value

    def wait(self, refs: Sequence[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        """See ActorHost. The event loop turns meanwhile."""
        if pending := [ref for ref in refs if not ref.done()]:
            self._loop.run_until_complete(asyncio.wait(pending, timeout=timeout_s))
        return [ref for ref in refs if ref.done()], [ref for ref in refs if not ref.done()]

    def get(self, ref: Any) -> Any:
        """See ActorHost."""
        if (error := ref.exception()) is not None:
            raise error  # `result` forgets the traceback once it has raised it
        return ref.result()

    def _answers(self, refs: Collection[Any], timeout_s: float) -> list[Any]:
        """What came of those calls that are back in time."""
        return [ref.result() for ref in self.wait(list(refs), timeout_s)[0] if ref.exception() is None]

    def cancel(self, ref: Any) -> None:
        """See ActorHost."""
        ref.cancel()

    def end(self, handle: Any) -> None:
        """See ActorHost. It is asked to, and has ten seconds."""
        leaving = handle.leave.remote()
        self.wait([leaving], _LEAVES_S)
        leaving.cancel()
        with contextlib.suppress(BaseException):
            leaving.exception()  # written down by the actor itself
        if handle._threads is not None:
            handle._threads.shutdown(wait=False)

    def clock(self) -> float:
        """See ActorHost."""
        return self._clock.seconds()

    def sleep(self, seconds: float) -> None:
        """See ActorHost."""
        self._loop.run_until_complete(asyncio.sleep(seconds))


async def _as_sent(answer: Coroutine[Any, Any, Any]) -> Any:
    """A copy, as it would come from another process: the service goes on with its own."""
    return copy.deepcopy(await answer)

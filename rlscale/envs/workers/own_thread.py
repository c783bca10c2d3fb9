"""A call in a thread of its own, which may never come back without holding up anybody else."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_MOST = 1024
"""Threads at once, those that hang included. A sample makes one call at a time, so that calls hardly wait here, while
containers allow a few thousand threads, beyond which nothing else of the process could start one either."""
_MANY_HANG = 32
"""Calls that were left behind from which on that is said: a few are a policy's, so many are a tool's."""

_log = logging.getLogger(__name__)


class ThreadEnded(Exception):
    """The call raised what ends a program or a thread; the message says what."""


@dataclass
class _Threads:
    """Those that were started from one event loop."""

    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST))
    left: int = 0
    """Those that nobody waits for any more, and that have not ended."""
    said: bool = False

    def leave(self) -> None:
        """The caller of one has given up."""
        self.left += 1
        if self.left > _MANY_HANG and not self.said:
            self.said = True
            _log.warning(
                "%d calls of tools hang, each in a thread that cannot be ended: give them time-outs of their own; "
                "at %d no further call is made",
                self.left,
                _MOST,
            )


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, _Threads] = WeakKeyDictionary()


async def in_own_thread(call: Callable[[], T]) -> T:
    """What the call gives or raises; ThreadEnded for SystemExit and its like, RuntimeError where too many others hang.

    `asyncio.to_thread` has a few threads for everybody: calls that hang would hold up all that comes after them, and
    the end of the process too. This thread is left behind when its caller gives up.
    """
    loop = asyncio.get_running_loop()
    threads = _OF_LOOP.setdefault(loop, _Threads())
    if threads.left >= _MOST:
        raise RuntimeError(f"{threads.left} calls of tools hang; give them time-outs of their own")
    await threads.places.acquire()
    done: asyncio.Future[T] = loop.create_future()
    given_up = False

    def finish(result: T | None, error: BaseException | None) -> None:
        threads.places.release()
        threads.left -= given_up
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type] # the call's own, where nothing was raised
        else:
            done.set_exception(error)

    def work() -> None:
        result: T | None = None
        raised: BaseException | None = None
        try:
            result = call()
        except BaseException as error:
            # A future cannot hold a StopIteration, and what is no Exception would end the event loop or this caller.
            plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
            raised = error if plain else ThreadEnded(f"{type(error).__name__}: {error}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, result, raised)

    try:
        threading.Thread(target=work, name="tool", daemon=True).start()
    except RuntimeError:  # the machine has no thread for it
        threads.places.release()
        raise
    try:
        return await done
    except asyncio.CancelledError:
        given_up = True
        threads.leave()
        raise

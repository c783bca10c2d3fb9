"""A call in a thread of its own, which may never come back without holding up anybody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ThreadEnded(Exception):
    """The call raised what ends a program or a thread; the message says what."""


async def in_own_thread(call: Callable[[], T]) -> T:
    """What the call gives or raises; ThreadEnded for SystemExit and its like.

    `asyncio.to_thread` has a few threads for everybody: calls that hang would hold up all that comes after them, and
    the end of the process too. This thread is left behind when its caller gives up.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
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

    threading.Thread(target=work, name="tool", daemon=True).start()
    return await done

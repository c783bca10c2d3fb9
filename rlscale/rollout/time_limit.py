"""A time limit for calls most of which never wait for anything."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class TooLong(Exception):
    """A call was not done in its time, and was cancelled."""


async def within(seconds: float | None, call: Coroutine[Any, Any, T]) -> T:
    """What the call gives. TooLong after so many seconds, None: never; a TimeoutError of its own is passed on.

    The timer is set where the call waits for the first time: what it does until then holds the event loop, and no timer
    could end it.
    """
    try:
        awaited = call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    try:
        async with asyncio.timeout(seconds) as timer:
            return await _GoesOn(call, awaited)
    except TimeoutError as error:
        if timer.expired():
            raise TooLong from error
        raise


class _GoesOn(Generic[T]):
    """The rest of a coroutine that has begun, and waits for what it has yielded."""

    def __init__(self, call: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._call, self._awaited = call, awaited

    def __await__(self) -> Generator[Any, Any, T]:
        call, awaited = self._call, self._awaited
        try:
            while True:
                try:
                    sent = yield awaited
                except GeneratorExit:
                    call.close()
                    raise
                except BaseException as error:  # a cancellation, for one: it is the call's to deal with
                    awaited = call.throw(error)
                else:
                    awaited = call.send(sent)
        except StopIteration as done:
            result: T = done.value
            return result

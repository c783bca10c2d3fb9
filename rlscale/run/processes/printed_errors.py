"""An actor's own log holds the errors that its calls end with, beside whatever else its process printed."""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

A = TypeVar("A", bound=type)


def prints_errors(actor: A) -> A:
    """A class decorator: what a public method raises is printed with its traceback, which goes to the actor's log."""
    for name, method in list(vars(actor).items()):
        if not name.startswith("_") and inspect.isfunction(method):
            setattr(actor, name, _printing(method))
    return actor


def _printing(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def awaited(*args: Any, **named: Any) -> Any:
            try:
                return await method(*args, **named)
            except Exception:
                _print()
                raise

        return awaited

    @functools.wraps(method)
    def called(*args: Any, **named: Any) -> Any:
        try:
            return method(*args, **named)
        except Exception:
            _print()
            raise

    return called


def _print() -> None:
    with suppress(OSError):  # a disk that is full under the log too, of which the error itself may tell
        traceback.print_exc()
        sys.stderr.flush()

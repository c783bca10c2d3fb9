"""Rewards of every kind. They stand apart from their tests because each reward process imports them anew."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rlscale.envs.score import Failed, Score


def odd_reward(response: str, label: Any, info: dict[str, Any]) -> Any:
    """What the response asks for."""
    command, _, argument = response.partition(" ")
    if command == "sleep":
        time.sleep(float(argument))
    if command == "break":
        breakpoint()
    if command == "imported":
        return float(argument in sys.modules)
    if command == "raise":
        raise ValueError(argument)
    if command == "offline":
        raise ConnectionRefusedError(argument)
    if command == "failed":
        return Failed(argument)
    if command == "blame":  # as rewards by a service say it
        return Score(0.5, crash=argument)
    if command == "parts":
        return Score(float(argument), {"format": 0.5})
    if command == "unsteady":  # another end every time: what happened before is in the file
        with open(argument, "a+") as file:
            file.write("x")
            file.seek(0)
            tries = len(file.read())
        if tries == 1:
            os._exit(3)
        raise ValueError("the second time")
    if command == "lucky":
        with open(argument, "a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return 0.75
    if command == "exit":
        os._exit(3)
    if command == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if command == "nothing":
        return None
    return float(argument)


def tells_all(
    response: str, label: Any, info: Any, raw_response: str, *, prompt: str, messages: Any, tokens: Any
) -> int:
    """The answer to all if all is as `test_a_reward_gets_...` gives it."""
    given = (response, label, info, raw_response, prompt, messages, tokens)
    return (
        42
        if given == ("5", 5, {"a": 1}, "<think>5<end>", "2+3=", [{"role": "user", "content": "2+3="}], [8, 5, 9])
        else 0
    )


def many_moods(response: str, label: Any, info: Any) -> Any:
    """Raises, or returns what is not a Python float, as the response asks."""
    match response:
        case "StopIteration":
            return next(iter([]))
        case "SystemExit":
            raise SystemExit(2)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "CancelledError":
            raise importlib.import_module("asyncio").CancelledError
        case "GeneratorExit":
            raise GeneratorExit
        case "long":
            raise ValueError("x" * 1_000_000)
        case "no text":
            raise NoText
    value = VALUES[response]
    return value() if callable(value) else value


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


async def patient(response: str, label: Any, info: Any) -> Any:
    import asyncio

    await asyncio.sleep(0.01)
    if response.startswith("sleep"):
        await asyncio.sleep(30)
    return many_moods(response, label, info)


class Patient:
    async def __call__(self, response: str, label: Any, info: Any) -> Any:
        return await patient(response, label, info)


def gives_a_coroutine(response: str, label: Any, info: Any) -> Any:
    """Nothing tells that it is asynchronous before it is called."""
    return patient(response, label, info)


def torch() -> Any:
    """Imported where it is needed: every reward process of the tests imports this file."""
    return importlib.import_module("torch")


def numpy() -> Any:
    """Imported where it is needed, too."""
    return importlib.import_module("numpy")


VALUES: dict[str, Any] = {
    "True": True,
    "int": 2,
    "numpy": lambda: numpy().float32(0.5),
    "numpy int": lambda: numpy().int64(3),
    "numpy bool": lambda: numpy().bool_(True),
    "array": lambda: numpy().array([0.25]),
    "array of none": lambda: numpy().array(4.0),
    "Decimal": Decimal("0.1"),
    "Fraction": Fraction(1, 4),
    "tensor": lambda: torch().tensor(1.5, dtype=torch().bfloat16),
    "grad": lambda: torch().ones(1, requires_grad=True),
    "text": "0.5",
    "long text": lambda: "1" * 10_000_000,
    "list": [1.0],
    "two": lambda: numpy().array([1.0, 2.0]),
    "inf": float("inf"),
    "huge": 10**400,
    "complex": 1j,
    "object": object(),
    "dict": {"score": 1.0},
    "bytes": b"1",
    "nan tensor": lambda: torch().tensor(float("nan")),
}


def backtracks(response: str, label: Any, info: Any) -> float:
    return float(re.match(r"(a+)+$", response) is not None)

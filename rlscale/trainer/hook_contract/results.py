"""What every hook must do: return, leave its inputs alone, give the same again, in the right shape and type."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor

from rlscale.algo.losses import PolicyLoss
from rlscale.trainer.hook_contract.findings import Report, Status
from rlscale.trainer.hook_contract.inputs import Arguments

SLOW_S = 1.0
"""A call on `cases.large` should not take longer."""
_TRIES = 3
"""Of such a call."""


def called_twice(report: Report, hook: Callable[..., Any], make: Callable[[], Arguments], where: str) -> Any:
    """The hook's result; also whether a second call gives the same, and whether it left its inputs as they were."""
    arguments, untouched, others = make(), make(), make()
    result = report.call(where, hook, arguments.inputs)
    pairs = zip(arguments.arrays(), untouched.arrays(), strict=True)
    changed = [name for (name, now), (_, before) in pairs if not identical(now, before)]
    text = f"{', '.join(changed)} changed ({where})" if changed else "they do"
    report.add("arguments", "its inputs stay as they were", not changed, text)
    again = report.call(where, hook, others.inputs)
    same = identical(result, again)
    text = "they do" if same else f"a second call gave other ones ({where})"
    report.add("deterministic", "the same inputs give the same numbers", same, text)
    return result


def identical(one: Any, other: Any) -> bool:
    """Bit by bit, whatever it is made of."""
    if isinstance(one, PolicyLoss) and isinstance(other, PolicyLoss):
        return all(identical(getattr(one, part.name), getattr(other, part.name)) for part in fields(one))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return identical(one.detach().numpy(), other.detach().numpy())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return type(one) is type(other)


def is_a(report: Report, result: Any, kind: type, where: str) -> bool:
    """Whether the result is of this type."""
    right = isinstance(result, kind)
    name = type(result).__name__
    report.add("result", f"a {kind.__name__}", right, f"{name}{'' if right else f' ({where})'}")
    return right


def is_column(report: Report, result: Any, count: int, dtype: Any, where: str, name: str = "") -> bool:
    """Whether an array or tensor holds `count` finite numbers of this type; returns whether its shape is right."""
    right = tuple(result.shape) == (count,)
    expected = "one number for each" if right else f"one number for each, [{count}]"
    report.add("shape", expected, right, "it is so" if right else f"{name}{list(result.shape)} ({where})")
    if not right:
        return False
    exact = result.dtype == dtype
    expected = "the documented ones" if exact else short(dtype)
    report.add("dtype", expected, exact, "they are" if exact else f"{name}{short(result.dtype)} ({where})")
    values = result.detach().double().numpy() if isinstance(result, Tensor) else result
    if np.issubdtype(values.dtype, np.number):
        bad = np.flatnonzero(~np.isfinite(values))
        text = f"{name}{values[bad[0]]} at {bad[0]}, {len(bad)} in all ({where})" if len(bad) else "all are"
        report.add("finite", "finite numbers", not len(bad), text)
    return True


def short(dtype: Any) -> str:
    """The name of a torch or NumPy type."""
    return str(dtype).removeprefix("torch.")


def timed(report: Report, what: str, run: Callable[[], Any]) -> None:
    """Whether a call on many tokens is quick; a slow one is not a failure.

    One that seems slow is made again: other processes may have had the cores.
    """
    seconds = math.inf
    for _ in range(_TRIES):
        start = time.perf_counter()
        report.call(what, run)
        seconds = min(seconds, time.perf_counter() - start)
        if seconds <= SLOW_S:
            break
    found = f"{seconds:.3f} s for {what}"
    report.add("speed", f"at most {SLOW_S:g} s", seconds <= SLOW_S, found, otherwise=Status.warned)


def stop_where_unreadable(report: Report, checks: Sequence[str] = ("result", "shape")) -> None:
    """The checks that follow compare results, which they cannot where a result has no shape to speak of."""
    report.stop_if_failed(*checks)

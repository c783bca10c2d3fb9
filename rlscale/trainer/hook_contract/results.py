"""What every hook must do: return, leave its arguments alone, give the same again, in the right shape and type."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from torch import Tensor

from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import AdvantageInputs
from rlscale.trainer.hook_contract.findings import Report, Status

SLOW_S = 1.0
"""A call on `cases.large` should not take longer."""


@dataclass
class Arguments:
    """Arguments for one call of a hook, made for that call alone."""

    given: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> list[tuple[str, Any]]:
        """Name and value of every array and tensor."""
        found = []
        for name, value in [*((f"argument {n}", v) for n, v in enumerate(self.given, 1)), *self.named.items()]:
            if isinstance(value, AdvantageInputs):
                # Not by getattr: inputs may remember what the hook reads.
                found += [(f"inputs.{part.name}", vars(value)[part.name]) for part in fields(value)]
            elif isinstance(value, Tensor | np.ndarray):
                found.append((name, value))
        return found


def called_twice(report: Report, hook: Callable[..., Any], make: Callable[[], Arguments], where: str) -> Any:
    """The hook's result; also whether a second call gives the same, and whether it left its arguments as they were."""
    arguments, untouched, others = make(), make(), make()
    result = report.call(where, hook, *arguments.given, **arguments.named)
    pairs = zip(arguments.arrays(), untouched.arrays(), strict=True)
    changed = [name for (name, now), (_, before) in pairs if not identical(now, before)]
    text = f"{', '.join(changed)} changed ({where})" if changed else "they do"
    report.add("arguments", "arguments stay as they were", not changed, text)
    again = report.call(where, hook, *others.given, **others.named)
    same = identical(result, again)
    text = "they do" if same else f"a second call gave other ones ({where})"
    report.add("deterministic", "the same arguments give the same numbers", same, text)
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
    """Whether a call on many tokens is quick; a slow one is no failure."""
    start = time.perf_counter()
    report.call(what, run)
    seconds = time.perf_counter() - start
    found = f"{seconds:.3f} s for {what}"
    report.add("speed", f"at most {SLOW_S:g} s", seconds <= SLOW_S, found, otherwise=Status.warned)


def stop_where_unreadable(report: Report, checks: Sequence[str] = ("result", "shape")) -> None:
    """The checks that follow compare results, which they cannot where a result has no shape to speak of."""
    report.stop_if_failed(*checks)

"""What a reward says of a response: a score, or that it could not tell."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


class Score(float):
    """What a response is worth: a number, which may tell what it is made of.

    `parts` are numbers by name, each of which becomes a metric; `crash` says how the response made the reward raise,
    hang or die, where it counts as wrong for that.
    """

    parts: Mapping[str, float]
    crash: str

    def __new__(cls, value: float, parts: Mapping[str, float] | None = None, crash: str = "") -> Score:
        score = super().__new__(cls, value)
        score.parts = dict(parts or {})
        score.crash = crash
        return score


def info_of(score: float) -> dict[str, Any]:
    """What a sample carries along of its score: `reward_parts` and `reward_crash`, where there are any."""
    if not isinstance(score, Score):
        return {}
    parts = {"reward_parts": dict(score.parts)} if score.parts else {}
    return parts | ({"reward_crash": score.crash} if score.crash else {})


@dataclass(frozen=True)
class Failed:
    """A reward may return this in place of a score: something that it needs is out of order, and `reason` says what.

    It says nothing of the response. The sample is dropped, counted and made anew.
    """

    reason: str


def score_of(value: Any) -> float:
    """The finite number that `value` is: a Python, NumPy or Decimal number, or an array or tensor of one element.

    ValueError saying what it was otherwise, in few words whatever its size.
    """
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"the reward returned {_shown(value)} instead of a finite number")
    return number


def _number(value: Any) -> float | None:
    if not isinstance(value, (numbers.Real, Decimal)):
        # Scalars of NumPy, and arrays and tensors of torch and others, have both; text and lists have neither.
        if not (hasattr(value, "item") and hasattr(value, "shape")) or math.prod(value.shape) != 1:
            return None
        value = value.item()
        if not isinstance(value, (numbers.Real, Decimal)):
            return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    """The value in at most a few dozen characters, with its type and size where it is longer."""
    kind = type(value).__name__
    if isinstance(value, (str, bytes)):
        return f"{kind} {value[:40]!r}{'...' if len(value) > 40 else ''} of length {len(value)}"
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return "an integer too large for a float"
    if hasattr(value, "shape"):
        return f"{kind} of shape {tuple(value.shape)}" + (f" ({value.item()!r})" if math.prod(value.shape) == 1 else "")
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"{kind} of length {len(value)}"
    return f"{kind} {reprlib.repr(value)[:60]}" if isinstance(value, (complex, Decimal)) else f"a value of type {kind}"


def full_score(value: Any) -> Score:
    """The score with its parts; a plain number has none. ValueError where it, or a part, is not a finite number."""
    if not isinstance(value, Score):
        return Score(score_of(value))
    return Score(score_of(value), {name: score_of(part) for name, part in value.parts.items()}, value.crash)

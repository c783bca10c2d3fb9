"""What an answer may be: a number with its unit, a formula, several answers, an interval, a matrix, or words."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlscale.envs.mathematics.units import Unit


@dataclass(frozen=True)
class Quantity:
    """A number: exact, as it was written. `decimals` are its digits after the point, `digits` all significant ones."""

    value: Fraction
    decimals: int = 0
    digits: int = 0
    unit: Unit | None = None
    percent: bool = False


@dataclass(frozen=True)
class Formula:
    """What math-verify made of a formula: a sympy object, with the unit that followed it."""

    value: Any
    text: str
    unit: Unit | None = None
    percent: bool = False


@dataclass(frozen=True)
class Several:
    """Several values: `several answers`, a `set`, a `pair` in round brackets, `[)` and the like, or a `union`."""

    kind: str
    items: tuple[Value, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of values. A determinant is not the matrix."""

    rows: tuple[tuple[Value, ...], ...]
    determinant: bool = False


@dataclass(frozen=True)
class Named:
    """`x = 5`: a value under a name."""

    name: str
    value: Value


@dataclass(frozen=True)
class Words:
    """Text, in lower case and without punctuation; `choice` is the letter of a multiple choice that it begins with."""

    text: str
    choice: str = ""


@dataclass(frozen=True)
class Based:
    """Digits (0 to 9, A to Z) in a base other than that of plain numbers, or in the same one, named."""

    digits: str
    base: int


@dataclass(frozen=True)
class Time:
    """Hours, minutes and seconds; `half` is `a` or `p` where it says which half of the day, `ratio` the value of what
    may be a ratio as well."""

    at: tuple[int, int, int]
    half: str = ""
    ratio: Quantity | None = None


Value = Quantity | Formula | Several | Matrix | Named | Words | Based | Time

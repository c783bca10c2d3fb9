"""Whether two answers are equal."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from rlscale.envs.mathematics.formula import time_limit
from rlscale.envs.mathematics.values import Based, Formula, Matrix, Named, Quantity, Several, Time, Value, Words

ROUNDED_DIGITS = 6
"""Significant digits from which a decimal may stand for the number that it is the rounding of."""
_POINTS = ("17/13", "29/11", "-19/7", "53/41")


def equal(label: Value, answer: Value) -> bool:
    """Whether `answer` is what `label` says. Names and units that one of them leaves out are not missed."""
    if isinstance(label, Named) or isinstance(answer, Named):
        return _equal_named(label, answer)
    if isinstance(label, Time) or isinstance(answer, Time):
        return _equal_times(label, answer)
    if isinstance(label, Based) or isinstance(answer, Based):
        return _equal_based(label, answer)
    if isinstance(label, Words) or isinstance(answer, Words):
        return _equal_words(label, answer)
    if isinstance(label, Several) and isinstance(answer, Several):
        return _equal_several(label, answer)
    if isinstance(label, Matrix) or isinstance(answer, Matrix):
        return _equal_matrices(label, answer)
    if isinstance(label, Several):
        return _is_only(label, answer)
    if isinstance(answer, Several):
        return _is_only(answer, label)
    return _equal_numbers(label, answer)


def _is_only(several: Several, other: Value) -> bool:
    """Whether several answers, or a set, hold nothing but the other one."""
    items = _distinct(several.items)
    return several.kind in ("several", "set") and len(items) == 1 and equal(items[0], other)


def _equal_named(label: Value, answer: Value) -> bool:
    if isinstance(label, Named) and isinstance(answer, Named):
        if label.name != answer.name and len(label.name) == 1 == len(answer.name):
            return False
        return equal(label.value, answer.value)
    bare = [value.value if isinstance(value, Named) else value for value in (label, answer)]
    return equal(*bare)


def _equal_times(label: Value, answer: Value) -> bool:
    """Two times by the clock, so that 12:30 is not 6:15; a time and a number only where it may be a ratio."""
    if isinstance(label, Time) and isinstance(answer, Time):
        halves = {label.half, answer.half} - {""}
        return label.at == answer.at and len(halves) <= 1
    ratios = [value.ratio if isinstance(value, Time) else value for value in (label, answer)]
    return all(ratio is not None for ratio in ratios) and equal(*(ratio for ratio in ratios if ratio is not None))


def _equal_based(label: Value, answer: Value) -> bool:
    """By value where both name a base, otherwise by the digits."""
    if isinstance(label, Based) and isinstance(answer, Based):
        return int(label.digits, label.base) == int(answer.digits, answer.base)
    plain = []
    for value in (label, answer):
        if isinstance(value, Based) and not value.digits.isdecimal():
            return False
        plain.append(Quantity(Fraction(int(value.digits))) if isinstance(value, Based) else value)
    return equal(*plain)


def _equal_words(label: Value, answer: Value) -> bool:
    if not (isinstance(label, Words) and isinstance(answer, Words)):
        return False
    if label.choice:
        same_text = label.text == answer.text
        return label.choice == answer.choice and (same_text or 1 in (len(label.text), len(answer.text)))
    return label.text == answer.text


def _equal_several(label: Several, answer: Several) -> bool:
    kinds = {label.kind, answer.kind}
    ordered = not kinds <= {"several", "set", "union"}
    if ordered and len(kinds) == 2 and kinds != {"several", "()"}:
        return False
    if kinds == {"union", "several"} or kinds == {"union", "set"}:
        return False
    left, right = label.items, answer.items
    if not ordered:
        left, right = _distinct(left), _distinct(right)
    if len(left) != len(right):
        return False
    if ordered:
        return all(equal(a, b) for a, b in zip(left, right, strict=True))
    return _matched(left, right)


def _distinct(items: Sequence[Value]) -> tuple[Value, ...]:
    kept: list[Value] = []
    for item in items:
        if not any(equal(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)


def _matched(left: Sequence[Value], right: Sequence[Value]) -> bool:
    """Whether every value has an equal one of its own on the other side."""
    free = list(right)
    for item in left:
        found = next((number for number, other in enumerate(free) if equal(item, other)), None)
        if found is None:
            return False
        del free[found]
    return True


def _equal_matrices(label: Value, answer: Value) -> bool:
    rows = [_rows(value) for value in (label, answer)]
    if None in rows or getattr(label, "determinant", False) != getattr(answer, "determinant", False):
        return False
    left, right = rows
    assert left is not None
    assert right is not None
    if isinstance(label, Several) or isinstance(answer, Several):  # a pair and a vector, standing or lying
        left, right = (_flat(side) for side in (left, right))
    return [len(row) for row in left] == [len(row) for row in right] and all(
        equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def _rows(value: Value) -> tuple[tuple[Value, ...], ...] | None:
    if isinstance(value, Matrix):
        return value.rows
    if isinstance(value, Several) and value.kind in ("()", "[]"):
        return (value.items,)
    return None


def _flat(rows: tuple[tuple[Value, ...], ...]) -> tuple[tuple[Value, ...], ...]:
    return (tuple(row[0] for row in rows),) if all(len(row) == 1 for row in rows) else rows


def _equal_numbers(label: Quantity | Formula, answer: Quantity | Formula) -> bool:
    scales = _scales(label, answer)
    if isinstance(label, Quantity) and isinstance(answer, Quantity):
        return any(_same_number(label, a, answer, b) for a, b in scales)
    return any(_same_formula(_scaled(label, a), _scaled(answer, b), label, answer) for a, b in scales)


def _scales(label: Quantity | Formula, answer: Quantity | Formula) -> list[tuple[Any, Any]]:
    """Pairs of factors for label and answer under which they may be compared: none where their units differ."""
    one = Fraction(1)
    percents = [(one, one)]
    if label.percent != answer.percent:
        percent = Fraction(1, 100)
        percents.append((percent, one) if label.percent else (one, percent))
    left, right = label.unit, answer.unit
    if left is None or right is None or not left.kinds or not right.kinds:
        units: list[tuple[Any, Any]] = [(one, one)]
        for number, (unit, other) in enumerate(((left, right), (right, left))):
            if unit is not None and unit.kinds == (("angle", 1),) and other is None:
                import sympy

                units.append((sympy.pi / 180, one) if number == 0 else (one, sympy.pi / 180))
    elif left.kinds == right.kinds:
        units = [(left.factor, right.factor)]
    else:
        return []
    return [(a * c, b * d) for (a, b), (c, d) in product(percents, units)]


def _same_number(label: Quantity, a: Any, answer: Quantity, b: Any) -> bool:
    """Exactly, or up to the last digit of a decimal that is long enough to be a rounded one."""
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        return False  # degrees as radians need a formula with pi
    left, right = label.value * a, answer.value * b
    if left == right:
        return True
    ulps = [
        Fraction(10) ** -number.decimals * scale
        for number, scale in ((label, a), (answer, b))
        if number.decimals > 0 and number.digits >= ROUNDED_DIGITS
    ]
    if not ulps or (label.decimals and answer.decimals and min(label.digits, answer.digits) < ROUNDED_DIGITS):
        return False
    return abs(left - right) < max(ulps) and abs(left - right) <= 2 * 10**-ROUNDED_DIGITS * abs(left)


def _scaled(value: Quantity | Formula, scale: Any) -> Any:
    import sympy

    factor = sympy.Rational(scale.numerator, scale.denominator) if isinstance(scale, Fraction) else scale
    if isinstance(value, Quantity):
        return sympy.Rational(value.value.numerator, value.value.denominator) * factor
    return value.value if factor == 1 else value.value * factor


def _same_formula(left: Any, right: Any, label: Quantity | Formula, answer: Quantity | Formula) -> bool:
    """Numbers to 20 digits, expressions at a few points, and relations and sets as math-verify sees them."""
    import sympy

    if left == right:
        return True
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        from math_verify import verify

        return bool(verify(left, right, timeout_seconds=time_limit()))
    symbols = {symbol for side in (left, right) for symbol in side.free_symbols}
    names = sorted({str(symbol) for symbol in symbols})
    if names == ["i"]:  # nothing else is unknown: the imaginary unit
        left, right = (side.subs(dict.fromkeys(symbols, sympy.I)) for side in (left, right))
        names = []
    if not names:
        return _close(left, right, label, answer)
    tried = 0
    for shift in range(len(_POINTS)):
        point = {
            symbol: sympy.Rational(_POINTS[(shift + names.index(str(symbol))) % len(_POINTS)])
            + sympy.Rational(names.index(str(symbol)), 7)
            for side in (left, right)
            for symbol in side.free_symbols
        }
        at = [side.subs(point) for side in (left, right)]
        values = [side.evalf(30) for side in at]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        if not all(value.is_real for value in values) and tried:
            continue
        tried += 1
        if not _close(values[0], values[1], label, answer):
            return False
    return tried > 0


def _close(left: Any, right: Any, label: Quantity | Formula, answer: Quantity | Formula) -> bool:
    """Whether two numbers are equal: exactly if they are rational, to 20 digits if not, or to those of a decimal that
    stands for one of them."""
    import sympy

    left, right = left.doit(), right.doit()
    if left == right:
        return True
    if not (left.is_finite and right.is_finite):
        return False
    difference, size = (sympy.Abs(value.evalf(30, maxn=200)).evalf(15) for value in (left - right, left))
    if not (difference.is_number and size.is_number):
        return False
    exact = left.is_Rational and right.is_Rational
    tolerance = "1e-12" if left.has(sympy.Float) or right.has(sympy.Float) else "1e-20"
    if not exact and difference <= size * sympy.Float(tolerance):
        return True
    return any(
        number.decimals > 0
        and number.digits >= ROUNDED_DIGITS
        and difference < sympy.Float(10) ** -number.decimals
        and difference <= size * sympy.Float(2 * 10**-ROUNDED_DIGITS)
        for number in (label, answer)
        if isinstance(number, Quantity)
    )

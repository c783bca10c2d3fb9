"""How large a formula would become if it were computed: `9^{9^{9}}` must not be tried."""

from __future__ import annotations

import math
from typing import Any

MOST_DIGITS = 100_000
"""Decimal digits of the largest number that is computed."""
_LARGEST_FACTORIAL = 4.0  # as a power of ten


class TooLarge(Exception):
    """It would take too long to compute."""


def check_size(formula: Any) -> None:
    """TooLarge for a sympy object with a number of over `MOST_DIGITS` digits, a sum, an integral or a limit."""
    if hasattr(formula, "flat") and not hasattr(formula, "func"):
        for cell in formula.flat():
            _digits(cell)
        return
    _digits(formula)


def _digits(formula: Any) -> float:
    """An upper bound of the decimal digits before the point."""
    import sympy

    if isinstance(formula, (sympy.concrete.expr_with_limits.ExprWithLimits, sympy.Limit, sympy.Derivative)):
        raise TooLarge
    if isinstance(formula, sympy.Number):
        if not formula.is_finite:
            return 1.0
        top, bottom = (formula.p, formula.q) if isinstance(formula, sympy.Rational) else (abs(formula), 1)
        return max(1.0, float(sympy.log(abs(top) + 1, 10).evalf(5)) if top else 1.0, math.log10(bottom))
    inside = [_digits(argument) for argument in getattr(formula, "args", ())]
    if isinstance(formula, (sympy.Pow, sympy.exp)):
        base, exponent = inside if len(inside) == 2 else (1.0, inside[0])
        digits = base * _magnitude(formula.args[-1], exponent)
    elif isinstance(formula, (sympy.factorial, sympy.factorial2, sympy.gamma, sympy.binomial)):
        if max(inside) > _LARGEST_FACTORIAL:
            raise TooLarge
        digits = 10 ** max(inside) * max(inside)
    elif isinstance(formula, sympy.Mul):
        digits = sum(inside)
    else:
        digits = max(inside, default=1.0) + math.log10(len(inside) + 1)
    if digits > MOST_DIGITS:
        raise TooLarge
    return digits


def _magnitude(exponent: Any, digits: float) -> float:
    """How many times the base's digits a power has at most."""
    import sympy

    if isinstance(exponent, sympy.Number) and exponent.is_finite:
        return max(1.0, abs(float(exponent)))
    return (
        10.0**digits if digits < 8 and not exponent.free_symbols else (math.inf if not exponent.free_symbols else 1.0)
    )

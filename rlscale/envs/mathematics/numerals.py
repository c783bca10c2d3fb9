"""Numbers that are not written in plain decimals: repeating decimals, other bases, times of day."""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

from rlscale.envs.mathematics.values import Based, Quantity, Time

_REPEATING = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>\d*)\.(?P<part>\d*)\s*\\(?:overline|bar|dot)\s*(?:\{\s*(?P<a>\d+)\s*\}|(?P<b>\d))"
)
_BASED = re.compile(r"(?P<digits>[0-9A-Z ]*\d[0-9A-Z ]*)_\s*(?:\{\s*(?P<a>\d{1,2})\s*\}|(?P<b>\d))")
_TIME = re.compile(r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?(?:\s*([ap])\.?\s*m\.?)?", re.IGNORECASE)
_MOST_HOURS = 24
_LARGEST_BASE = 36


def repeating_decimal(text: str) -> Quantity | None:
    r"""`0.1\overline{36}` as the fraction that it is."""
    if (match := _REPEATING.fullmatch(text)) is None:
        return None
    part, repeated = match["part"], match["a"] or match["b"]
    ends = Fraction(int((match["whole"] or "0") + part), 10 ** len(part))
    value = ends + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(part))
    return Quantity(-value if match["sign"] == "-" else value)


def in_a_base(text: str) -> Based | None:
    """`101_2`, `BA16_{12}`: digits with the base that they are written in."""
    if (match := _BASED.fullmatch(text)) is None:
        return None
    digits, base = match["digits"].replace(" ", ""), int(match["a"] or match["b"])
    if not 2 <= base <= _LARGEST_BASE or any(int(digit, _LARGEST_BASE) >= base for digit in digits):
        return None
    return Based(digits, base)


def time_of_day(text: str) -> Time | None:
    """`12:30`, `6:05 p.m.`. Of a ratio such as `3:10`, which looks the same, the value is kept as well."""
    if (match := _TIME.fullmatch(text)) is None or int(match[1]) > _MOST_HOURS:
        return None
    hours, minutes = int(match[1]), int(match[2])
    may_be_ratio = not (match[3] or match[4] or match[2].startswith("0")) and gcd(hours, minutes) == 1
    return Time(
        (hours, minutes, int(match[3] or 0)),
        half=(match[4] or "").lower(),
        ratio=Quantity(Fraction(hours, minutes)) if may_be_ratio else None,
    )

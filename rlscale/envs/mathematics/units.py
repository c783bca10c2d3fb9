"""Units of measurement and currencies, as far as answers have them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE = """
length 1: m meter metre
length 1/1000: mm millimeter millimetre
length 1/100: cm centimeter centimetre
length 1/10: dm decimeter decimetre
length 1000: km kilometer kilometre
length 254/10000: in inch inche
length 3048/10000: ft foot feet
length 9144/10000: yd yard
length 1609344/1000: mi mile
mass 1: g gram
mass 1/1000: mg milligram
mass 1000: kg kilogram
mass 1000000: ton tonne
pound 1: lb pound
pound 1/16: oz ounce
time 1: s sec second
time 1/1000: ms millisecond
time 60: min minute
time 3600: h hr hour
time 86400: day
time 604800: week
month 1: month
month 12: yr year
volume 1: l liter litre
volume 1/1000: ml milliliter millilitre
gallon 1: gal gallon
gallon 1/4: qt quart
gallon 1/16: cup
dollar 1: dollar usd buck \uff04
dollar 1/100: cent
euro 1: euro eur €
sterling 1: gbp £
yen 1: yen ¥
rupee 1: rupee ₹ rs
angle 1: degree deg
celsius 1: celsius °c
fahrenheit 1: fahrenheit °f
current 1: amp ampere
voltage 1: v volt
power 1: w watt
power 1000: kw kilowatt
energy 1: j joule
force 1: newton
frequency 1: hz hertz
"""


def _read_table() -> dict[str, tuple[str, Fraction]]:
    units: dict[str, tuple[str, Fraction]] = {}
    for line in _TABLE.strip().splitlines():
        kind, factor, *names = line.replace(":", "").split()
        units |= {name: (kind, Fraction(factor)) for name in names}
    return units


_UNITS = _read_table()
_SPELLED = {
    "mph": "mi/h",
    "kph": "km/h",
    "kmh": "km/h",
    "kmph": "km/h",
    **{f"{word} c": "celsius" for word in ("degree", "degrees")},
    **{f"{word} celsius": "celsius" for word in ("degree", "degrees")},
    **{f"{word} f": "fahrenheit" for word in ("degree", "degrees")},
    **{f"{word} fahrenheit": "fahrenheit" for word in ("degree", "degrees")},
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_ONE = re.compile(r"([A-Za-z\uff04€£¥₹°]+)(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?")


@dataclass(frozen=True)
class Unit:
    """Kinds of quantity with their powers, and how many of the base unit it is; no kinds for nouns such as apples."""

    kinds: tuple[tuple[str, int], ...]
    factor: Fraction


COUNTED = Unit((), Fraction(1))
"""What is counted: apples, units, people. It is compared with nothing."""


def read_unit(text: str) -> Unit | None:
    """The unit that words such as `cm^2`, `miles per hour` or `apples` are; None if they are none.

    Any words are something to count; single letters must be known units, and so must what has powers or a slash.
    """
    words = re.sub(r"\s+", " ", text.replace("\\cdot", " ").replace(".", "")).strip()
    words = _SPELLED.get(words.lower(), words)
    over, *under = re.split(r"\s*/\s*|\s+per\s+", words)
    if len(under) > 1:
        return None
    parts = [(_factors(over), 1), *((_factors(part), -1) for part in under)]
    kinds: dict[str, int] = {}
    factor = Fraction(1)
    for found, sign in parts:
        if found is None:
            plain = re.fullmatch(r"[A-Za-z]{3,}(?:[ -][A-Za-z]+)*", words)
            return COUNTED if plain else None
        for kind, size, power in found:
            kinds[kind] = kinds.get(kind, 0) + sign * power
            factor *= size ** (sign * power)
    return Unit(tuple(sorted(kinds.items())), factor)


def _factors(text: str) -> list[tuple[str, Fraction, int]] | None:
    """Kind, size and power of each unit of a product; None if one is unknown."""
    found = []
    power = 1
    for word in re.findall(r"[^\s^]+(?:\s*\^\s*\{?\s*-?\d\s*\}?)?", text):
        if word.lower() in _POWERS:
            power = _POWERS[word.lower()]
            continue
        match = _ONE.fullmatch(word)
        if match is None:
            return None
        name = match[1] if match[1] in _UNITS else match[1].lower()
        if name not in _UNITS:
            name = name.removesuffix("s") if name.removesuffix("s") in _UNITS and len(name) > 2 else ""
        if not name:
            return None
        kind, size = _UNITS[name]
        found.append((kind, size, int(match[2] or 1) * power))
        power = 1
    return found or None

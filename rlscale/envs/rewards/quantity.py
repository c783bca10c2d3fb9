"""Answers of physics and chemistry: a number with a unit, within a tolerance."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from rlscale.config.errors import UserError
from rlscale.envs.rewards.label import label_text
from rlscale.envs.rewards.stated import stated

_STATED = re.compile(r"(?:answer\s+is|answer\s*:|####)\s*", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(
    r"(?P<digits>[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})?(?:\.\d{1,40})?)"
    r"(?:[eE](?P<e>[+-]?\d{1,3})|\s*[x*]\s*10\s*(?:\^|\*\*)\s*\(?(?P<ten>[+-]?\d{1,3})\)?)?"
)
_UNIT = re.compile(r"[A-Za-zµΩ°%/*^()\d\s+.-]{0,60}")
_TOO_HIGH = re.compile(r"(?:\^|\*\*)\s*\(?\s*[+-]?\d{3}|(?:\^|\*\*)[^*/\s]*(?:\^|\*\*)|\d{5}")
_WORDS = (
    (re.compile(r"\bdegrees?\s+celsius\b", re.IGNORECASE), "degC"),
    (re.compile(r"\bdegrees?\s+fahrenheit\b", re.IGNORECASE), "degF"),
    (re.compile(r"\bsquare\s+([a-z]+)"), r"\1^2"),
    (re.compile(r"\bcubic\s+([a-z]+)"), r"\1^3"),
    (re.compile(r"\b([a-z]+)\s+squared\b"), r"\1^2"),
    (re.compile(r"\b([a-z]+)\s+cubed\b"), r"\1^3"),
    (re.compile(r"\s+per\s+"), "/"),
)
"""Units as they are spoken, and as they are written."""
_LATEX = re.compile(r"\\(?:text|mathrm|textrm|rm|mathit|operatorname|left|right|displaystyle|quad|,|;|!|:|\s)")
_SIGNS = {
    **dict.fromkeys(("\\times", "\u00d7", "\\cdot", "·", "⋅", "∙"), "*"),
    **dict.fromkeys(("\u2212", "\u2013"), "-"),
    **dict.fromkeys(("\u2009", "\u202f", "\xa0"), " "),
    "~": " ",
    "$": " ",
    "{": "",
    "}": "",
    "\\%": "%",
    "\\mu": "\u00b5",
    "\u03bc": "\u00b5",
    "\\Omega": "ohm",
    "\u03a9": "ohm",
    "\u2126": "ohm",
    "^\\circ": "°",
    "\\circ": "°",
    "\\degree": "°",
    "Å": "angstrom",
}
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_PLAIN_OF_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")


class Measured(NamedTuple):
    """A number as it was written."""

    value: float
    unit: str
    """As pint reads it; empty for a bare number."""
    figures: int
    """Significant ones; trailing zeros count where there is a decimal point."""


class Quantity:
    """1.0 if the response's quantity is the label's, in any unit of the same kind, otherwise 0.0.

    The answer is the last \\boxed{}, or what the last "the answer is" or `####` states, or all of the response. It is
    right within `relative` of the label's value, or within `absolute` in the label's unit. A unit that is missing is
    wrong unless `bare` allows that, and so is one that the label does not have. With `figures` it must have as many
    significant figures as the label, and with `exact_unit` the very unit. Units are pint's (the extra `units`).
    """

    def __init__(
        self,
        relative: float = 0.01,
        absolute: float = 0.0,
        figures: bool = False,
        bare: bool = False,
        exact_unit: bool = False,
    ) -> None:
        """UserError if pint is not installed, or a tolerance is not one."""
        if find_spec("pint") is None:
            raise UserError("reward=quantity needs pint: pip install 'rlscale[units]'")
        if not 0 <= relative < 1 or not 0 <= absolute < math.inf:
            raise UserError(f"relative={relative} must be from 0 to 1, and absolute={absolute} at least 0")
        self._relative, self._absolute, self._figures, self._bare = relative, absolute, figures, bare
        self._exact_unit = exact_unit

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """1.0 or 0.0. ValueError if the label is no quantity."""
        expected = _label(label_text(label))
        found = measured(_answer(response))
        if found is None or (self._figures and found.figures != expected.figures):
            return 0.0
        if bool(found.unit) != bool(expected.unit):
            if found.unit or not self._bare:
                return 0.0
            value: float | None = found.value
        else:
            value = _converted(found, expected.unit, self._exact_unit)
        if value is None or not math.isfinite(value):
            return 0.0
        allowed = max(self._relative * abs(expected.value), self._absolute)
        # Rounding of the conversion must not decide.
        return float(abs(value - expected.value) <= allowed + 1e-12 * abs(expected.value))

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label is no quantity."""
        _label(label_text(label))


def measured(text: str) -> Measured | None:
    """The quantity that the text is, None if it is none, or its unit is not known."""
    text = _LATEX.sub(" ", text[:400])
    text = _RAISED.sub(lambda found: "^" + found[0].translate(_PLAIN_OF_RAISED), text)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = text.strip().rstrip(".").rpartition("=")[2].strip()  # F = 12 N
    match = _NUMBER.match(text)
    if match is None or not any(sign.isdigit() for sign in match["digits"]):
        return None
    digits = match["digits"].replace(",", "")
    value = float(f"{digits}e{match['e'] or match['ten'] or 0}")
    unit = _unit(text[match.end() :].strip().lstrip("*").strip())
    return None if unit is None or not math.isfinite(value) else Measured(value, unit, _significant(digits))


def _answer(response: str) -> str:
    text = stated(response, None) or ""
    if boxes := [*_BOX.finditer(text)]:
        return _closed(text[boxes[-1].end() :])
    ends = [found.end() for found in _STATED.finditer(text)]
    return text[ends[-1] :].partition("\n")[0] if ends else text


def _closed(text: str) -> str:
    """Up to the bracket that closes what is open."""
    depth = 1
    for place, sign in enumerate(text[:400]):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:place]
    return ""


def _significant(digits: str) -> int:
    bare = digits.lstrip("+-").lstrip("0").replace(".", "", 1) if "." in digits else digits.lstrip("+-").strip("0")
    return max(len(bare.lstrip("0")), 1)


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # an optional extra, which Quantity asks for by name

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


@lru_cache(maxsize=4096)
def _unit(text: str) -> str | None:
    """The unit as pint writes it; None if it is not known. What would take long to compute is not known."""
    if _UNIT.fullmatch(text) is None or _TOO_HIGH.search(text):
        return None
    for said, written in _WORDS:
        text = said.sub(written, text)
    text = re.sub(r"°\s*([CF])\b", r"deg\1", text).replace("°", "degree")
    text = re.sub(r"(?<=[A-Za-z)])-(?=[A-Za-z(])", "*", text).replace("%", "percent")
    # m s^-1: a space between units is a product.
    text = re.sub(r"(?<=[A-Za-z0-9)])\s+(?=[A-Za-z(])", "*", text.strip())
    text = re.sub(r"(?<=[A-Za-z])([+-]?\d)", r"^\1", text)
    try:
        return str(_registry().parse_units(text)) if text else ""
    except Exception:  # pint raises whatever its parser meets
        return None


def _converted(found: Measured, unit: str, exact: bool) -> float | None:
    registry = _registry()
    if exact and found.unit != unit:
        return None
    if unit == "dimensionless" or not unit:
        return found.value
    try:
        return float(registry.Quantity(found.value, found.unit).to(unit).magnitude)
    except Exception:  # another dimension, or too large
        return None


@lru_cache(maxsize=4096)
def _label(text: str) -> Measured:
    found = measured(text)
    if found is None:
        raise ValueError(f"the label {text[:60]!r} is not a number with a known unit")
    return found

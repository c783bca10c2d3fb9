"""Formulas, by math-verify."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import lru_cache

from rlscale.envs.mathematics.size import TooLarge, check_size
from rlscale.envs.mathematics.values import Formula

_TOWER = re.compile(r"\^\s*\{?\s*\(?\s*\d+\s*\}?\s*\)?\s*\^|\^\s*\{[^{}]*\^|\d{6,}\s*!|!\s*!\s*!|\^\s*\{?\s*-?\d{6,}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}|(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_TIME_LIMIT_S = 3
MOST_NESTED = 40
"""Brackets within brackets that are read."""


@lru_cache(maxsize=4096)
def read_formula(text: str) -> Formula | None:
    """The formula in LaTeX without delimiters.

    None if it is none, divides by zero, holds prose, or is too large to be computed.
    """
    import sympy
    from math_verify import LatexExtractionConfig, parse

    if (
        not text
        or text.count("{") != text.count("}")
        or _TOWER.search(text)
        or _PROSE.search(text)
        or depth(text) > MOST_NESTED
    ):
        return None
    plain = replace(LatexExtractionConfig().normalization_config, units=False, nits=False, boxed="none")
    found = parse(
        f"$${text}$$",
        [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=plain)],
        fallback_mode="no_fallback",
        parsing_timeout=time_limit(),
    )
    if not found or isinstance(found[0], str):
        return None
    if isinstance(found[0], sympy.Basic) and found[0].has(sympy.zoo, sympy.nan):
        return None  # a division by zero
    try:
        check_size(found[0])
    except (TooLarge, OverflowError):
        return None
    return Formula(found[0], text)


def depth(text: str) -> int:
    """How deep brackets are nested."""
    now = deepest = 0
    for character in text:
        now += (character in "([{") - (character in ")]}")
        deepest = max(deepest, now)
    return deepest


def time_limit() -> int | None:
    """Seconds for one call of math-verify, None where its clock (a signal) cannot be used: outside the main thread."""
    import threading

    for module in ("math_verify.parser", "math_verify.grader"):  # they warn where the time limit is None
        logging.getLogger(module).setLevel(logging.ERROR)
    return _TIME_LIMIT_S if threading.current_thread() is threading.main_thread() else None

"""Answers that packages of problems compute by `eval`: what is more than numbers, lists and formulas is kept from it.

What a policy writes is text, and must never run with the rights of the run. SymPy's `parse_expr` and `sympify` are
`eval` too.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![A-Za-z_])(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z_.])")
_SIGNS = re.compile(r"[\s+\-*/^(),!]*")
_NAME = re.compile(r"[A-Za-z]+")
_CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc")
_FUNCTIONS = frozenset(
    {
        *(f"{arc}{name}{hyperbolic}" for arc in ("", "a") for name in _CIRCULAR for hyperbolic in ("", "h")),
        *("exp", "log", "ln", "sqrt", "cbrt", "abs", "Abs", "sign", "pi", "erf", "erfc", "gamma", "factorial"),
    }
)


def is_formula(text: str) -> bool:
    """Whether the text holds numbers, names of one letter, known functions, brackets and signs, and nothing else.

    Such a text reads no attribute, calls nothing of Python's and has no text inside that would be read as code again.
    """
    words = _NUMBER.sub(" ", text)
    names = _NAME.findall(words)
    return _SIGNS.fullmatch(_NAME.sub("", words)) is not None and all(len(n) == 1 or n in _FUNCTIONS for n in names)

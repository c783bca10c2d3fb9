# ruff: noqa: RUF001 (characters that look like others are what this is about)
"""One notation out of many: LaTeX, plain text and Unicode become LaTeX without decoration."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

CURRENCIES = "\uff04€£¥₹"
"""Signs of currencies; the dollar is the full-width one, since `$` delimits formulas."""

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ",
        "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
        "∅": r"\emptyset ", "°": r"^\circ ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
        "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}", "′": "'", "\u200b": "", "\ufeff": "", "\u2062": "", "∛": r"\sqrt[3]", "√": r"\sqrt",
        "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "₄": "_4", "₅": "_5", "₆": "_6", "₇": "_7", "₈": "_8",
        "₉": "_9", "＝": "=", "，": ", ", "（": "(", "）": ")", "％": "%",
    }
)  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_DECORATION = re.compile(
    r"\\(?:displaystyle|textstyle|limits|left|right|bigg?[lr]?|Bigg?[lr]?)(?![A-Za-z])\.?|\\[!]|\*\*|`"
)
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~|[\s\u00a0\u2009\u202f\u2007]+")
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}"
)
_RELATIONS = {
    "leq": r"\le ", "leqslant": r"\le ", "leslant": r"\le ", "geq": r"\ge ", "geqslant": r"\ge ", "geslant": r"\ge ",
    "lt": "<", "gt": ">", "neq": r"\ne ",
}  # fmt: skip
_REPLACED: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(leq?slant|leq|lt|geq?slant|geq|gt|neq)(?![A-Za-z])"), lambda m: _RELATIONS[m[1]]),
    (re.compile(r"<=|=<"), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\(?:d|te?xt)?degrees?(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ"), r" degrees "),
    (re.compile(r"\\?%|\b(?:percent|percentage|pct)\b"), "%"),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![A-Za-z\\])(pi|theta|alpha|beta|sin|cos|tan|log|ln)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\log\s*_\s*\{?\s*e\s*\}?(?![A-Za-z])"), r"\\ln "),
    (re.compile(r"\+/-|\+-"), r"\\pm "),
    (re.compile(r"(?<![A-Za-z\\])(?:√|sqrt)(?![A-Za-z])"), r"\\sqrt"),
    (re.compile(r"\\sqrt\s*((?:\[\d+\])?)\s*\(([^()]*)\)"), r"\\sqrt\1{\2}"),
    (re.compile(r"\\sqrt\s*((?:\[\d+\])?)\s*(\d+(?:\.\d+)?|[A-Za-z])"), r"\\sqrt\1{\2}"),
    (re.compile(r"\^\s*\((-?[^()]*)\)"), r"^{\1}"),
    (re.compile(r"\^\s*(-?\d+(?:\.\d+)?)"), r"^{\1}"),
    (re.compile(r"(?<=\d)\s*\*\s*|\s*\*\s*"), r" \\cdot "),
]
_MIXED = re.compile(r"(?<![\w.}/^,])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d/.])")
_MIXED_LATEX = re.compile(r"(?<![\w.}/^,\\])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")


def rewritten(text: str) -> str:
    """The answer in one notation: formulas without delimiters, words without `\\text`, mixed numbers as sums.

    `\\$` and a `$` that delimits nothing become the full-width dollar, degrees the word, percent `%`.
    """
    text = unicodedata.normalize("NFC", text).replace("\\\\$", "\uff04").replace("\\$", "\uff04")
    text = text.replace("**", "^") if re.search(r"\w\*\*[\w(]", text) else text
    if text.count("$") % 2:
        text = re.sub(r"\$(?=\s*-?[\d.])", "\uff04", text, count=1)
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text.replace("$", " "))
    text = _vulgar_fractions(text)
    text = re.sub(f"[{''.join(_RAISED)}]+", lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", text)
    text = _DECORATION.sub("", text.translate(_CHARACTERS))
    text = re.sub(r"(?<=\d)\\,(?=\d{3}(?!\d))", ",", text)
    while (without := _WORDS.sub(r" \1 ", text)) != text:
        text = without
    text = _SPACES.sub(" ", text)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    text = _MIXED_LATEX.sub(_mixed, text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;:").strip()


def _vulgar_fractions(text: str) -> str:
    """½ as 1/2, with a space after the digits of a mixed number."""
    parts: list[str] = []
    for character in text:
        plain = unicodedata.normalize("NFKC", character)
        if "⁄" in plain:
            parts.append((" " if parts and parts[-1][-1:].isdigit() else "") + plain.replace("⁄", "/"))
        else:
            parts.append(plain if "\uff10" <= character <= "\uff5a" else character)
    return "".join(parts)


def _mixed(match: re.Match[str]) -> str:
    whole, over, under = match.groups()
    if int(over) >= int(under):  # a product
        return match[0]
    return f"({whole}+\\frac{{{over}}}{{{under}}})"

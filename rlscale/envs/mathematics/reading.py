"""From the text of an answer to what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from rlscale.envs.mathematics.answer import LONGEST
from rlscale.envs.mathematics.formula import MOST_NESTED, depth, read_formula
from rlscale.envs.mathematics.notation import CURRENCIES, rewritten
from rlscale.envs.mathematics.numerals import in_a_base, repeating_decimal, time_of_day
from rlscale.envs.mathematics.units import read_unit
from rlscale.envs.mathematics.values import Formula, Matrix, Named, Quantity, Several, Value, Words

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_LITERAL = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<whole>{_DIGITS})?(?:\.(?P<part>\d*))?"
    r"(?:\s*(?:\\times|\\cdot|x)\s*10\s*\^\s*\{?\s*(?P<power>[+-]?\d{1,4})\s*\}?|[eE](?P<exponent>[+-]?\d{1,4}))?"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*(?:\\frac\s*\{\s*(?P<a>[+-]?\d+)\s*\}\s*\{\s*(?P<b>[+-]?\d+)\s*\}|(?P<c>\d+)\s*/\s*(?P<d>[+-]?\d+))"
)
_MIXED = re.compile(r"(?P<sign>[+-]?)\s*\((?P<whole>\d+)\+\\frac\{(?P<a>\d+)\}\{(?P<b>\d+)\}\)")
_WITH_UNIT = re.compile(
    rf"(?P<front>[+-]?\s*[{CURRENCIES}])?\s*(?P<value>.*?(?:[\d)}}.]|\\[A-Za-z]+(?![A-Za-z])))(?P<space>\s*)(?P<unit>[A-Za-z{CURRENCIES}°][^{{}}\\\d=<>]*?(?:\^\s*\{{?-?\d\}}?)?"
    r"(?:\s*/\s*[A-Za-z]+(?:\^\{?\d\}?)?)?)?"
)
_MATRIX = re.compile(
    r"\\begin\s*\{(?P<kind>[pbvVB]?|small)(?:matrix|array)\}(?:\{[clr|]+\})?(?P<inside>.*)\\end\s*\{.*\}", re.S
)
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?'*|[A-Za-z](?:\^\{-1\})?\s*\(\s*\w+\s*\)|\\(?:angle|triangle|overline)\s*\{?\s*\w+\s*\}?)\s*"
)
_WORDS = re.compile(r"[A-Za-z\u00c0-\u024f\u0400-\u04ff\u4e00-\u9fff][^\\{}^_=<>+*/\d|]*", re.S)
_DATE = re.compile(
    r"(?:([A-Za-z]+day),?\s+)?(January|February|March|April|May|June|July|August|September|October|November|December)\s+"
    r"(\d{1,2})(?:\s*\^?\s*\{?\s*(?:st|nd|rd|th)\s*\}?)?(?:,?\s+(\d{4}))?"
)
_CHOICE = re.compile(r"\(?\s*([A-J])\s*(?:[).:]\s*.*)?", re.S)
_MOST_ITEMS = 64  # each is compared with each
_FORMAL = ("sin", "cos", "tan", "log", "ln", "lim", "max", "min", "gcd", "lcm", "mod", "det")


def readings(text: str) -> Iterator[Value]:
    """Every sensible reading of an answer, the likeliest first; none if it cannot be understood.

    `1,234` may be one number or two; so may a letter of a multiple choice be a variable.
    """
    if len(text) > LONGEST or not text.strip():
        return
    plain = rewritten(text)
    if depth(plain) > MOST_NESTED:
        return
    if choice := _CHOICE.fullmatch(plain):
        yield Words(_folded(plain), choice[1])
    if (value := read(plain)) is not None:
        yield value
    if re.fullmatch(r"\d{1,3}(?:,[1-9]\d{2})+", plain):
        yield Several("several", tuple(Quantity(Fraction(part)) for part in plain.split(",")))
    if re.fullmatch(r"-?0,\d+", plain) and (value := read(plain.replace(",", "."))) is not None:
        yield value


def read(text: str) -> Value | None:
    """The meaning of an answer in the notation of `rewritten`; None if it has none."""
    text = text.strip()
    return (
        time_of_day(text)
        or in_a_base(text)
        or _quantity(text)
        or _words(text)
        or _matrix(text)
        or _several(text)
        or _named(text)
        or _formula(text)
    )


def _number(text: str) -> Quantity | None:
    """A literal: whole, decimal (also a repeating one), scientific, a fraction or a mixed number."""
    if (repeating := repeating_decimal(text)) is not None:
        return repeating
    if match := _LITERAL.fullmatch(text):
        whole, part = match["whole"], match["part"] or ""
        if whole is None and not part:
            return None
        digits = re.sub("[, ]", "", whole or "0") + part
        power = int(match["power"] or match["exponent"] or 0)
        value = Fraction(int(digits)) * Fraction(10) ** (power - len(part))
        significant = len(digits.lstrip("0"))
        return Quantity(-value if match["sign"] == "-" else value, len(part) - power if part else 0, significant)
    if match := _MIXED.fullmatch(text):
        if int(match["b"]) == 0:
            return None
        value = int(match["whole"]) + Fraction(int(match["a"]), int(match["b"]))
        return Quantity(-value if match["sign"] == "-" else value)
    if match := _FRACTION.fullmatch(text):
        over, under = int(match["a"] or match["c"]), int(match["b"] or match["d"])
        if under == 0:
            return None
        return Quantity(Fraction(over, under) * (-1 if match["sign"] == "-" else 1))
    return None


def _quantity(text: str) -> Value | None:
    """A literal, or a short formula, with a unit, a currency or a percent sign."""
    if (number := _number(text)) is not None:
        return number
    if text.endswith("%"):
        inside = _number(text[:-1].strip()) or read_formula(text[:-1].strip())
        return None if inside is None else replace(inside, percent=True)
    match = _WITH_UNIT.fullmatch(text)
    if match is None or not (match["front"] or match["unit"]):
        return None
    front, back = (match["front"] or "").strip(), (match["unit"] or "").strip()
    if back and len(back) == 1 and not match["space"] and back.isalpha():
        return None  # 5m is a product, 5 m a length
    sign = "-" if front.startswith("-") else ""
    unit = read_unit(front.lstrip("+-").strip() or back)
    if front and back and read_unit(back) is None:
        return None
    value = _number(sign + match["value"]) or (read_formula(match["value"]) if unit and not sign else None)
    return None if unit is None or value is None else replace(value, unit=unit)


def _words(text: str) -> Words | None:
    """Text of which no part is a formula, or a date; a single letter is a variable."""
    if date := _DATE.fullmatch(text):
        return Words(_folded(" ".join(part for part in date.groups() if part)))
    if not _WORDS.fullmatch(text) or re.search(r"[()\[\]]", text.strip("()")) or len(text.strip()) < 2:
        return None
    words = re.findall(r"\w+", text)
    if any(word.lower() in _FORMAL for word in words) or all(len(word) == 1 for word in words):
        return None
    if "," in text and all(len(word.strip()) == 1 for word in text.split(",")):
        return None
    return Words(_folded(text))


def _folded(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _matrix(text: str) -> Value | None:
    match = _MATRIX.fullmatch(text.strip("[]() ") if text[:1] in "[(" and "\\begin" in text[:9] else text)
    if match is None:
        return None
    rows = []
    for line in re.split(r"\\\\(?:\s*\[[^\]]*\])?", match["inside"]):
        if line.strip() and line.strip() != "\\hline":
            cells = [read(rewritten(cell)) for cell in line.split("&")]
            if any(cell is None for cell in cells):
                return None
            rows.append(tuple(cell for cell in cells if cell is not None))
    return Matrix(tuple(rows), determinant=match["kind"] in ("v", "V")) if rows else None


def _several(text: str) -> Value | None:
    """Several answers, sets, pairs, intervals and their unions; plus or minus as two answers."""
    text = re.sub(r"^\\?[A-Za-z]\s*\\in(?![A-Za-z])", "", text).strip()
    if text in ("\\mathbb{R}", "\\mathbb R", "\\R"):
        return _all("()", ["-\\infty", "\\infty"])
    if len(parts := split(text, re.compile(r"\\cup(?![A-Za-z])"))) > 1:
        return _all("union", parts)
    brackets = _brackets(text)
    if brackets is not None:
        kind, inside = brackets
        parts = _elements(inside)
        if kind == "set" or len(parts) > 1:
            return _all(kind, parts)
        return None
    if (
        len(
            parts := [
                part for part in split(text, re.compile(r",?\s*(?<![A-Za-z])(?:and|or)(?![A-Za-z])|;")) if part.strip()
            ]
        )
        > 1
    ):
        return _all("several", [element for part in parts for element in (_elements(part))])
    if len(parts := _elements(text)) > 1:
        return _all("several", parts)
    if len(re.findall(r"\\pm(?![A-Za-z])", text)) == 1:
        plus, minus = (
            read(re.sub(r"\\mp(?![A-Za-z])", other, re.sub(r"\\pm(?![A-Za-z])", sign, text)).strip().removeprefix("+"))
            for sign, other in (("+", "-"), ("-", "+"))
        )
        return None if plus is None or minus is None else Several("several", (plus, minus))
    return _inequality(text)


def _all(kind: str, parts: list[str]) -> Value | None:
    items: list[Value] = []
    if len(parts) > _MOST_ITEMS:
        return None
    for part in parts:
        item = read(part)
        if item is None:
            return None
        items += (
            item.items
            if isinstance(item, Several) and item.kind == "several" and kind in ("several", "set")
            else [item]
        )
    return Several(kind, tuple(items))


def _elements(text: str) -> list[str]:
    """Split at commas; where some are followed by a space, those within `1,234` are not."""
    loose = ", " in text
    return split(text, re.compile(r",\s+|,(?!\d{3}(?!\d))|(?<!\d),") if loose else re.compile(","))


def _brackets(text: str) -> tuple[str, str] | None:
    """What kind of brackets enclose the whole text, and what is in them; None if none do."""
    if re.match(r"\\\{|\\lbrace|\{", text) and re.search(r"\\\}$|\\rbrace$|\}$", text):
        inside = re.sub(r"^(?:\\\{|\\lbrace|\{)|(?:\\\}|\\rbrace|\})$", "", text)
        return ("set", inside) if _closed(inside) else None
    if text.startswith(r"\langle") and text.endswith(r"\rangle"):
        return "()", text[7:-7]
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]" or not _closed(text[1:-1]):
        return None
    return text[0] + text[-1], text[1:-1]


def _closed(text: str) -> bool:
    """Whether no bracket closes before it opens, so that brackets around the text belong to each other."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators that stand within no brackets."""
    parts, begin, depth, at = [], 0, 0, 0
    while at < len(text):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth <= 0 and (match := separator.match(text, at)) and match.end() > at:
            parts.append(text[begin:at])
            begin = at = match.end()
            continue
        at += 1
    return [*parts, text[begin:]]


def _inequality(text: str) -> Value | None:
    """`a < x <= b`, `x > a`: the interval that it says."""
    parts = re.split(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))", text)
    if len(parts) not in (3, 5):
        return None
    terms, signs = [part.strip() for part in parts[::2]], [sign.strip("\\") for sign in parts[1::2]]
    if signs[0][0] in ">g":
        terms, signs = terms[::-1], [{">": "<", "ge": "le", "<": ">", "le": "ge"}[sign] for sign in signs[::-1]]
    if any(sign[0] in ">g" for sign in signs):
        return None
    unknown = [number for number, term in enumerate(terms) if re.fullmatch(r"\\?[A-Za-z]+", term) and term != "\\pi"]
    if len(unknown) != 1 or (len(terms) == 3 and unknown != [1]):
        return None
    if len(terms) == 2:
        low = "-\\infty" if unknown == [0] else terms[0]
        high = terms[1] if unknown == [0] else "\\infty"
        closed = ["(", "]" if signs[0] == "le" else ")"] if unknown == [0] else ["[" if signs[0] == "le" else "(", ")"]
    else:
        low, high = terms[0], terms[2]
        closed = ["[" if signs[0] == "le" else "(", "]" if signs[1] == "le" else ")"]
    return _all("".join(closed), [low, high])


def _named(text: str) -> Value | None:
    """`x = 5`, also after other steps: `x = 2 + 3 = 5`."""
    parts = re.split(r"(?<![<>!])=(?!=)", text)
    if len(parts) < 2 or not _NAME.fullmatch(parts[0].strip() + " "):
        return None
    value = read(parts[-1])
    return None if value is None else Named(re.sub(r"\s", "", parts[0]), value)


def _formula(text: str) -> Formula | None:
    return read_formula(text)

"""The final answer of a text: its last box, what follows "the answer is", the last formula, or the text itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BETWEEN = re.compile(r"[\s$,;.]*(?:\\text\s*\{\s*(?:and|or)\s*\}|and|or)?[\s$,;]*(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?")
_STATED = re.compile(r"(?:####|\banswers?\s*(?:is|are|:|=)|\bfinal answer\s*(?:is|:)?)\s*:?\s*(?=\S)", re.IGNORECASE)
_FORMULAS = re.compile(
    r"(?<!\\)\$\$(?P<a>.+?)(?<!\\)\$\$|(?<!\\)\$(?P<b>(?:\\.|[^$\\\n])+?)\$"
    r"|(?<!\\)\\\[(?P<c>.+?)\\\]|(?<!\\)\\\((?P<d>.+?)\\\)",
    re.DOTALL,
)
_NUMBER = re.compile(r"(?<![\w.])-?[$€£]?(?:\d+ \d+/\d+|\d[\d,]*(?:\.\d+)?(?:/\d+)?|\.\d+)%?")
_MOST_BOXES = 32
_TAIL = 10_000  # characters at the end of a response in which an answer without a box is looked for
LONGEST = 2000
"""Characters of an answer; nothing longer is read."""


def final_answers(text: str) -> Iterator[str]:
    """What the text may give as its answer, the likeliest first; nothing if there is none.

    With a box only the last one counts (or the last few, where nothing but "and" or a comma stands between them).
    Without one: what is stated as the answer, the whole text, the last formula, the last number.
    """
    boxes = [*_boxes(text)]
    if boxes:
        last = boxes[-1][2]
        yield _STATED.split(last)[-1].lstrip("} ") if _STATED.search(last) else last
        joined = _joined(text, boxes)
        if len(joined) > 1:
            yield ", ".join(joined)
        return
    if _BOX.search(text):
        return  # a box that is not closed: the text was cut
    text = text[-_TAIL:]
    candidates = []
    stated = [*_STATED.finditer(text)]
    if stated:
        line = text[stated[-1].end() :].split("\n", 1)[0]
        candidates += [line, re.split(r"\.(?:\s|$)", line, maxsplit=1)[0]]
    else:
        candidates.append(text)
    if formulas := [*_FORMULAS.finditer(stated[-1].string[stated[-1].end() :] if stated else text)]:
        candidates.append(next(group for group in formulas[-1].groups() if group))
    if numbers := _NUMBER.findall(candidates[0] if stated else text):
        candidates.append(numbers[0] if stated else numbers[-1])
    yield from (candidate for candidate in dict.fromkeys(candidates) if candidate.strip())


def states_answer(text: str) -> bool:
    """Whether the text says what the answer is, in words such as "the answer is"."""
    return _STATED.search(text) is not None


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of the last closed boxes, in the order of their starts."""
    for match in [*_BOX.finditer(text)][-_MOST_BOXES:]:
        begin = match.end()
        if begin >= len(text):
            return
        if text[begin] != "{":
            bare = re.match(r"\\?\w+", text[begin:])
            if bare:
                yield match.start(), begin + bare.end(), bare[0]
            continue
        depth = 0
        for end in range(begin, min(len(text), begin + LONGEST)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                yield match.start(), end + 1, text[begin + 1 : end]
                break


def _joined(text: str, boxes: list[tuple[int, int, str]]) -> list[str]:
    """The contents of the last boxes that nothing but a comma, "and" or "or" separates."""
    joined = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if not _BETWEEN.fullmatch(text[end:start]) or end > start:
            break
        joined.insert(0, content)
    return joined

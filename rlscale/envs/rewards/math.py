"""Answers of mathematics, compared as mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlscale.envs.mathematics.answer import final_answers, states_answer
from rlscale.envs.mathematics.equality import equal
from rlscale.envs.mathematics.reading import readings
from rlscale.envs.mathematics.values import Value, Words
from rlscale.envs.rewards.label import label_text


class MathAnswer:
    """1.0 if the response's answer equals the label as mathematics, otherwise 0.0.

    The answer is what the last \\boxed{...} holds, or else what is stated as the answer, the last formula or number. A
    response without an answer, or with one that cannot be understood, scores 0; a label that cannot be understood is an
    error. A few formulas take very long to compare: set `reward.workers` to at least 1, so that there is a time limit.
    """

    def __call__(self, response: str, label: Any, info: dict[str, Any], raw_response: str | None = None) -> float:
        """1.0 or 0.0. ValueError if the label is missing or cannot be understood."""
        _, expected = _meanings(label_text(label))
        boxed = "\\boxed" in response or "\\fbox" in response
        for answer in final_answers(response):
            if raw_response is not None and answer not in raw_response and ", " not in answer:
                return 0.0  # a special token stands within the answer
            found = [*readings(answer)]
            if any(equal(one, other) for one in expected for other in found):
                return 1.0
            if not boxed and not all(isinstance(value, Words) for value in found):
                return 0.0  # the likeliest answer that can be understood decides
        return 0.0

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label cannot be understood, or is not equal to itself in some form."""
        text = label_text(label)
        answer, _ = _meanings(text)
        bare = answer.strip().strip("$")
        for form in (text, f"\\boxed{{{bare}}}", f"${bare}$"):
            if self(form, label, {}) != 1.0:
                raise ValueError(f"the label {_short(text)} would not be equal to itself, written as {_short(form)}")


@lru_cache(maxsize=4096)
def _meanings(label: str) -> tuple[str, Sequence[Value]]:
    """The label's answer and what it may mean. ValueError if it cannot be understood."""
    for answer in _candidates(label):
        if found := [*readings(answer)]:
            return answer, found
    raise ValueError(f"the label {_short(label)} cannot be read as mathematics, a number or words")


def _candidates(label: str) -> Sequence[str]:
    """A label is an answer as it stands, unless it has boxes or ends in a stated answer."""
    found = [*final_answers(label)]
    if "\\boxed" in label or "\\fbox" in label:
        return found[::-1]  # several boxes as several answers, if they are that
    return found if "####" in label else [label, *(found if states_answer(label) else [])]


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")

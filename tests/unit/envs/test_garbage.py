"""Responses that are no answer at all, held against every reward that reads text: a number, soon, nothing raised."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from rlscale.envs.reward import extras_of, reward_of

REWARDS = "rlscale.envs.rewards"
MATH: dict[str, Any] = {"_target_": f"{REWARDS}.math.MathAnswer"}
LONG = 300_000
"""Characters of the longest ones: more than any policy writes."""


def much(text: str, size: int = LONG) -> str:
    return text * (size // len(text))


GARBAGE = {
    "nothing": "",
    "NUL": "\0" * 1000,
    "lone surrogates": "\udc00\ud800" * 100,
    "marks that turn the writing around": "\u202e\ufeff" * 100,
    "one letter": much("a"),
    "one digit": much("7"),
    "white space": much(" \n"),
    "ends of thoughts": much("</think>"),
    "fences": much("```\n"),
    "dollars": much("$"),
    "answers": much("the answer is "),
    "boxes": much(r"\boxed{1} and "),
    "boxes that never end": much(r"\boxed{"),
    "brackets": much("[", 100_000) + much("]", 100_000),
    "objects": much('{"a":', 100_000) + "1" + much("}", 20_000),
    "fractions": r"\boxed{" + r"\frac{1}{" * 2000 + "1" + "}" * 2001,
    "roots": "$" + r"\sqrt{" * 500 + "2" + "}" * 500 + "$",
    "signs": r"\boxed{" + "-" * 50_000 + "1}",
    "commas": r"\boxed{" + "1," * 30_000 + "1}",
    "a tower": r"\boxed{9^{9^{9^{9}}}}",
    "factorials": r"\boxed{100000!!!}",
    "a power": r"\boxed{(x+y+z+w)^{200}}",
    "a sum": r"\boxed{\sum_{n=1}^{10^{10}} 1/n}",
    "an exponent": "1e999999999",
    "no number": "NaN",
    "infinity": "-Infinity m",
    "a unit's power": "5 m**999999999",
    "units in brackets": "5 " + "(" * 3000 + "m" + ")" * 3000,
    "degrees of degrees": "5 degC*degC",
    "what backtracks": "a" * 40 + "!",
    "digits of elsewhere": "٤٢",
}
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "math": (MATH, r"\frac{1}{2}"),
    "math, several": (MATH, "2, 3"),
    "choice": ({"_target_": f"{REWARDS}.multiple_choice.ChoiceAnswer"}, "B"),
    "exact": ({"_target_": f"{REWARDS}.exact.ExactAnswer"}, "12"),
    "exact_match": ({"_target_": f"{REWARDS}.exact_match.ExactMatch", "after": "answer"}, "blue sky"),
    "f1": ({"_target_": f"{REWARDS}.f1.F1"}, ["blue sky", "blue"]),
    "pattern": ({"_target_": f"{REWARDS}.pattern.Pattern", "pattern": "<think>.*</think>.*"}, None),
    "json_schema": ({"_target_": f"{REWARDS}.json_schema.JsonSchema", "schema": {"type": "object"}}, None),
    "quantity": ({"_target_": f"{REWARDS}.quantity.Quantity", "figures": True, "bare": True}, "5.0 m/s"),
    "weighted": ({"_target_": f"{REWARDS}.weighted.WeightedSum", "parts": {"a": {"function": MATH}}}, "12"),
}


@pytest.mark.parametrize("name", CASES)
def test_garbage_is_a_number_soon_and_nothing_else(name: str) -> None:
    node, label = CASES[name]
    reward: Any = reward_of(node)
    reward("so: 1", label, {})  # what is imported then is not the response's
    for what, text in GARBAGE.items():
        extras = {"raw_response": text, "prompt": "", "messages": [], "tokens": [1]}
        began = time.process_time()
        score = reward(text, label, {}, **{extra: extras[extra] for extra in extras_of(reward)})
        assert isinstance(score, (int, float)), (what, score)
        assert math.isfinite(score), what
        assert time.process_time() - began < 5.0, what

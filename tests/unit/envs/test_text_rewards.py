"""Rewards that read a response as text: choices, words, forms, JSON; and sums of rewards."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.envs.reward import build_reward, extras_of
from rlscale.envs.rewards.exact_match import ExactMatch
from rlscale.envs.rewards.f1 import F1
from rlscale.envs.rewards.json_schema import JsonSchema
from rlscale.envs.rewards.length import LengthPenalty
from rlscale.envs.rewards.multiple_choice import ChoiceAnswer
from rlscale.envs.rewards.pattern import Pattern
from rlscale.envs.rewards.weighted import WeightedSum
from rlscale.envs.score import Failed, Score

HOSTILE = [
    "",
    " \n",
    "\0",
    "\ud800",
    "((((" * 2000,
    "[" * 100_000,
    "{" * 100_000,
    "answer is " * 20_000,
    "A" * 1_000_000,
]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("response", "choice"),
    [
        ("B", "B"), ("(b)", "B"), ("b.", "B"), ("B) Paris", "B"), ("B. Paris", "B"), ("**C**", "C"),
        ("The answer is (C).", "C"), ("the answer is: **D**", "D"), (r"So \boxed{\text{A}}", "A"), ("#### D", "D"),
        ("Answer: B) Paris, since A is wrong", "B"), ("The answer is A. No: the answer is B", "B"),
        ("<think>The answer is A</think>B", "B"), (r"\boxed{(C)}", "C"), ("Answer: $B$", "B"), ("Final answer: a", "A"),
        ("The answer is A or B", None), (r"\boxed{A, B}", None), ("A, B, C", None), ("A cat", None), ("Paris", None),
        ("The answer is Berlin", None), ("I choose B", None), ("K", None), ("ABCD", None), ("the answer is", None),
    ],
)  # fmt: skip
def test_a_choice_is_the_letter_that_the_response_settles_on(response: str, choice: str | None) -> None:
    assert ChoiceAnswer().choice(response) == choice
    if choice is not None:
        assert ChoiceAnswer()(response, choice, {}) == 1.0
        assert ChoiceAnswer()(response, "J", {}) == 0.0


def test_the_label_of_a_choice_is_a_letter_or_its_number() -> None:
    reward = ChoiceAnswer("ABCD")
    assert [reward("C", label, {}) for label in ("C", "(c)", "C.", 2, 1)] == [1.0, 1.0, 1.0, 1.0, 0.0]
    for label in ("E", 4, -1, "", None, True, "AB", {"answer": "A"}):
        with pytest.raises(ValueError, match="label"):
            reward.check_label(label)
    with pytest.raises(UserError, match="letters=ABA: must be different letters"):
        ChoiceAnswer("ABA")


@pytest.mark.parametrize(
    ("answer", "label", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0, 1.0),
        ("Eiffel", "Eiffel Tower", 0.0, 2 / 3),
        ("it is the Eiffel Tower", "Eiffel Tower", 0.0, 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("tower tower", "tower", 0.0, 2 / 3),
        ("Paris", ["London", "paris"], 1.0, 1.0),
        ("", "Paris", 0.0, 0.0),
        ("größer", "Größer", 1.0, 1.0),
        (7, 7, 1.0, 1.0),
    ],
)
def test_words_are_compared_as_squad_does(answer: Any, label: Any, exact: float, f1: float) -> None:
    assert ExactMatch()(str(answer), label, {}) == exact
    assert F1()(str(answer), label, {}) == pytest.approx(f1)
    marked = f"<think>Answer: no</think>I think.\nAnswer: {answer}\nDone."
    assert ExactMatch("Answer:")(marked, label, {}) == exact
    assert F1("Answer:")(marked, label, {}) == pytest.approx(f1)
    assert F1("Result:")(marked, label, {}) == 0.0


@pytest.mark.parametrize("label", [None, "", [], {"a": 1}, [None], "the"])
def test_a_label_without_a_word_is_an_error(label: Any) -> None:
    with pytest.raises(ValueError, match="label"):
        ExactMatch().check_label(label)


def test_a_pattern_is_matched_by_the_whole_response() -> None:
    reward = Pattern(r"<think>.*</think>\s*<answer>[^<]*</answer>")
    assert reward("<think>a\nb</think>\n<answer>5</answer>", None, {}) == 1.0
    assert reward("<think>a</think><answer>5</answer> and more", None, {}) == 0.0
    assert reward("", None, {}) == 0.0
    raw = Pattern(r".*<\|im_end\|>", raw=True)
    assert [raw("5", None, {}, raw_response="5<|im_end|>"), raw("5", None, {}, raw_response="5")] == [1.0, 0.0]
    with pytest.raises(UserError, match=r"pattern=\(: is not a regular expression: "):
        Pattern("(")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"age": 5}', 1.0), ('```json\n{"age": 5}\n```', 1.0), ('Here:\n```\n{"age": 5}\n```\nthat is it', 1.0),
        ('<think>{"no": 1}</think> {"age": 5}', 1.0), ('{"age": "5"}', 0.0), ('{"age": 5, "b": 1}', 0.0), ("{}", 0.0),
        ('{"age": 5} and', 0.0), ("{'age': 5}", 0.0), ('{"age": NaN}', 0.0), ("5", 0.0), ('{"age": 5', 0.0),
        ('{"age": ' + "9" * 10_000 + "}", 0.0),
    ],
)  # fmt: skip
def test_json_must_be_valid_under_its_schema(response: str, expected: float, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert JsonSchema(SCHEMA)(response, None, {}) == expected
    assert JsonSchema(str(tmp_path / "schema.json"))(response, None, {}) == expected
    assert JsonSchema()(response, SCHEMA, {}) == expected
    assert JsonSchema()(response, json.dumps(SCHEMA), {}) == expected


def test_what_is_no_schema_is_refused_and_nothing_is_fetched_for_one() -> None:
    with pytest.raises(UserError, match=r"schema: it is not a JSON schema: 'whole' is not valid"):
        JsonSchema({"type": "whole"})
    with pytest.raises(UserError, match=r"schema=/no/such: cannot be read: "):
        JsonSchema("/no/such")
    for label in (None, "{", 5, {"type": 3}):
        with pytest.raises(ValueError, match=r"schema"):
            JsonSchema().check_label(label)
    with pytest.raises(ValueError, match="refers to what it does not hold"):
        JsonSchema({"$ref": "http://127.0.0.1:9/schema"})("{}", None, {})


@pytest.mark.parametrize("response", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_responses_are_wrong_and_quickly_so(response: str) -> None:
    started = time.process_time()
    rewards = [(ChoiceAnswer(), "B"), (ExactMatch(), "Paris"), (F1(), "Paris"), (JsonSchema(SCHEMA), None)]
    assert [reward(response, label, {}) for reward, label in rewards] == [0.0] * 4
    assert time.process_time() - started < 2.0


def test_the_penalty_for_length_falls_in_a_straight_line() -> None:
    reward = LengthPenalty(free=10, limit=20)
    assert [reward("", None, {}, tokens=[0] * n) for n in (0, 10, 15, 20, 99)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(UserError, match="free=20 and limit=20 tokens: 0 <= free < limit must hold"):
        LengthPenalty(20, 20)


def unavailable(response: str, label: Any, info: dict[str, Any]) -> Failed:
    return Failed("offline")


async def slow_half(response: str, label: Any, info: dict[str, Any]) -> Score:
    await asyncio.sleep(0)
    return Score(0.5, {"style": 0.25})


def weighted(**parts: Any) -> Any:
    return build_reward(RewardConfig(function={"_target_": f"{WeightedSum.__module__}.WeightedSum", "parts": parts}))


EXACT = {"function": {"_target_": "rlscale.envs.rewards.exact.ExactAnswer"}}
LONG = {"weight": 0.5, "function": {"_target_": "rlscale.envs.rewards.length.LengthPenalty", "free": 1, "limit": 3}}


def test_a_weighted_sum_tells_its_parts_and_gives_each_what_it_asks_for() -> None:
    reward = weighted(answer=EXACT, length=LONG)
    assert extras_of(reward) == ("raw_response", "prompt", "messages", "tokens")
    score = reward("5", "5", {}, tokens=[1, 2], raw_response="5<end>")
    assert (score, score.parts) == (0.75, {"answer": 1.0, "length": -0.5})
    with pytest.raises(ValueError, match="answer: there is no label to compare with"):
        reward.check_label(None)
    half = {"weight": 2, "function": {"_target_": f"{__name__}.slow_half"}}
    score = asyncio.run(weighted(answer=EXACT, half=half)("4", "5", {}))
    assert (score, score.parts) == (1.0, {"answer": 0.0, "half": 0.5, "half.style": 0.25})


def test_a_weighted_sum_fails_with_its_part_and_names_one_that_cannot_be_built() -> None:
    offline = {"function": {"_target_": f"{__name__}.unavailable"}}
    assert weighted(answer=EXACT, judge=offline)("5", "5", {}) == Failed("judge: offline")
    for parts, message in (
        ({}, "reward.function.parts is empty"),
        ({"a": {"weight": 1}}, r"parts.a: must be \{weight: 1.0, function"),
        ({"a": {**EXACT, "weight": "x"}}, "parts.a.weight=x: must be a number"),
        ({"a": {"function": {**EXACT["function"], "revers": True}}}, "parts.a: .*revers.*reverse"),
    ):
        with pytest.raises(UserError, match=message):
            weighted(**parts)

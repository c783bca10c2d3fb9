"""The rewards that come with rlscale, and how a reward is built from its node."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rlscale.config.checks.data_and_reward import NO_REWARD
from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.envs.reward import build_reward, extras_of, label_check
from rlscale.envs.rewards.exact import ExactAnswer
from rlscale.envs.rewards.math import MathAnswer
from rlscale.envs.rewards.none import no_reward


@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [("58", "58", 1.0), (" 58\n", "58", 1.0), ("58", 58, 1.0), ("85", "58", 0.0), ("", "58", 0.0), ("580", "58", 0.0)],
)
def test_an_exact_answer_is_the_label_up_to_white_space(response: str, label: Any, expected: float) -> None:
    assert ExactAnswer()(response, label, {}) == expected


def test_no_reward_needs_no_label_and_can_be_named_in_a_configuration() -> None:
    assert no_reward("58", None, {}) == 0.0
    reward = build_reward(RewardConfig(function={"_target_": NO_REWARD}))
    assert reward("", None, {}) == 0.0


def test_an_exact_answer_may_be_asked_for_in_reverse() -> None:
    assert ExactAnswer(reverse=True)("58", "85", {}) == 1.0
    assert ExactAnswer(reverse=True)("85", "85", {}) == 0.0


@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [
        (r"So the answer is \boxed{\frac{1}{2}}.", "0.5", 1.0),
        (r"\boxed{1/2}", r"\frac{1}{2}", 1.0),
        (r"\boxed{0.6}", r"\frac{1}{2}", 0.0),
        (r"First \boxed{3}, no: \boxed{4}", "4", 1.0),
        (r"First \boxed{4}, no: \boxed{3}", "4", 0.0),
        (r"$x = \sqrt{8}$", r"2\sqrt{2}", 1.0),
        (r"\boxed{(1, 2)}", r"$(1,2)$", 1.0),
        ("The answer is 42", "42", 1.0),
        ("I do not know", "42", 0.0),
        ("", "42", 0.0),
        (r"\boxed{\frac{", "42", 0.0),
    ],
)
def test_a_mathematical_answer_is_compared_as_mathematics(response: str, label: str, expected: float) -> None:
    assert MathAnswer()(response, label, {}) == expected


@pytest.mark.parametrize("reward", [ExactAnswer(), MathAnswer()])
def test_a_missing_label_is_an_error_and_no_zero(reward: Any) -> None:
    with pytest.raises(ValueError, match=r"no label to compare with; set data.label_key"):
        reward("5", None, {})


@pytest.mark.parametrize("reward", [ExactAnswer(), MathAnswer()])
@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "the label is empty"),
        (" \n", "the label is empty"),
        ({"ground_truth": "4", "style": "rule"}, "a mapping with the keys ground_truth, style; name the one"),
        (["4"], "of type list; it must be text or a number"),
        (True, "of type bool; it must be text or a number"),
        (float("nan"), "the label is nan, which no answer equals"),
    ],
)
def test_a_label_that_cannot_be_compared_with_is_an_error_and_no_zero(reward: Any, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward("4", label, {})
    with pytest.raises(ValueError, match=message):
        reward.check_label(label)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("85", 1.0),
        ("85<|im_end|>", 1.0),
        (" 85\n<|im_end|><|endoftext|>", 1.0),
        ("8<|im_start|><|endoftext|>5", 0.0),
        ("<|im_start|>85<|im_end|>", 0.0),
    ],
)
def test_a_special_token_within_the_answer_makes_it_another_answer(raw: str, expected: float) -> None:
    text = re.sub(r"<\|\w+\|>", "", raw)
    assert ExactAnswer()(text, "85", {}, raw_response=raw) == expected


def asks_for_all(
    response: str, label: Any, info: Any, raw_response: str, tokens: list[int], *, prompt: str, messages: Any = None
) -> float:
    return 0.0


def asks_for_none(response: str, label: Any, info: Any, prompt: str = "Judge this:", limit: int = 3) -> float:
    return 0.0


def takes_anything(response: str, label: Any, info: Any, limit: int = 3, **others: Any) -> float:
    return 0.0


def asks_for_promt(response: str, label: Any, info: Any, promt: str) -> float:
    return 0.0


class AsksForTokens:
    def __init__(self, prompt: str = "Judge this:") -> None:
        self.prompt = prompt

    def __call__(self, response: str, label: Any, info: Any, tokens: list[int]) -> float:
        return 0.0

    def check_label(self, label: Any) -> None:
        raise ValueError(f"no label such as {label}")


class AsksForAnswer:
    def __call__(self, response: str, label: Any, info: Any, answer: str) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("node", "extras"),
    [
        ({"_target_": "asks_for_all"}, ("raw_response", "prompt", "messages", "tokens")),
        ({"_target_": "asks_for_none"}, ("prompt",)),
        ({"_target_": "asks_for_none", "prompt": "Right?"}, ()),
        ({"_target_": "takes_anything"}, ("raw_response", "prompt", "messages", "tokens")),
        ({"_target_": "takes_anything", "tokens": 5}, ("raw_response", "prompt", "messages")),
        ({"_target_": "length_reward"}, ()),
        ({"_target_": "AsksForTokens", "prompt": "Right?"}, ("tokens",)),
    ],
)
def test_a_reward_is_given_what_its_parameters_name(node: dict[str, Any], extras: tuple[str, ...]) -> None:
    assert extras_of(build(**node | {"_target_": f"{__name__}.{node['_target_']}"})) == extras


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "asks_for_promt",
            "reward.function: nothing fills the parameter promt of .*asks_for_promt; "
            "set reward.function.promt=... if it is its own; a reward is called with "
            "response, label and info, and by name with raw_response, prompt, messages, tokens; did you mean prompt?",
        ),
        ("AsksForAnswer", "nothing fills the parameter answer of .*AsksForAnswer; a reward is called with"),
    ],
)
def test_a_reward_that_asks_for_what_there_is_not_is_refused_when_it_is_built(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(_target_=f"{__name__}.{target}")


def of_another_framework(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    return 0.0


def prompt_first(prompt: str, response: str, label: Any) -> float:
    return 0.0


class LabelFirst:
    def __call__(self, label: Any, response: str, info: Any) -> float:
        return 0.0


def other_words(solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    return float(solution_str == ground_truth)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "of_another_framework",
            "the parameter data_source of .*of_another_framework would get the response; a reward",
        ),
        (
            "prompt_first",
            "the parameter prompt of .*prompt_first would get the response; a reward takes response, label",
        ),
        ("LabelFirst", "the parameter label of .*LabelFirst would get the response"),
    ],
)
def test_a_reward_whose_parameters_are_in_another_order_is_refused(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(_target_=f"{__name__}.{target}")


def test_a_reward_may_call_its_parameters_by_other_words() -> None:
    assert build(_target_=f"{__name__}.other_words")("5", "5", {}) == 1.0


def test_a_reward_may_check_labels_before_a_run() -> None:
    check = label_check(build(_target_=f"{__name__}.AsksForTokens"))
    assert check is not None
    with pytest.raises(ValueError, match="no label such as 5"):
        check(5)
    assert label_check(build(_target_=f"{__name__}.length_reward", scale=2.0)) is None


def length_reward(response: str, label: Any, info: dict[str, Any], scale: float = 1.0) -> float:
    return scale * len(response)


def build(**function: Any) -> Any:
    return build_reward(RewardConfig(function=function))


def test_a_function_and_a_class_can_be_rewards_with_arguments() -> None:
    assert build(_target_=f"{__name__}.length_reward", scale=2.0)("abc", None, {}) == 6.0
    assert build(_target_="rlscale.envs.rewards.exact.ExactAnswer", reverse=True)("12", "21", {}) == 1.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ({}, "reward.function is empty; choose one with reward=arithmetic or reward=math"),
        ({"reverse": True}, "reward.function._target_ is missing"),
        ({"_target_": "no_such_module.Thing"}, "reward.function._target_=no_such_module.Thing: no module of that name"),
        (
            {"_target_": "rlscale.envs.rewards.exact.ExactAnwser"},
            "rlscale.envs.rewards.exact has no ExactAnwser; did you mean ExactAnswer?",
        ),
        (
            {"_target_": "rlscale.envs.rewards.exact.ExactAnswer", "revers": True},
            "reward.function.revers is not an argument of .*; did you mean reward.function.reverse?",
        ),
        ({"_target_": f"{__name__}.length_reward", "label": 3}, "reward.function.label is not an argument"),
        ({"_target_": "numpy.iscomplexobj"}, "reward.function: numpy.iscomplexobj cannot be called like this"),
        ({"_target_": "numpy.pi"}, "reward.function._target_=numpy.pi is not a class or function"),
    ],
)
def test_a_wrong_reward_is_refused_by_name(function: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_reward(RewardConfig(function=function))


def with_yield(response: str, label: Any, info: dict[str, Any]) -> Any:
    yield 1.0


class WithYield:
    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> Any:
        yield 1.0


@pytest.mark.parametrize("name", ["with_yield", "WithYield"])
def test_a_generator_is_no_reward(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is a generator"):
        build_reward(RewardConfig(function={"_target_": f"{__name__}.{name}"}))

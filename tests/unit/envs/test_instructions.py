"""Instructions that can be checked, by if-verifiable (the extra instructions)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.envs.rewards import instructions
from rlscale.envs.rewards.instructions import InstructionsFollowed
from rlscale.envs.score import Failed

needs_package = pytest.mark.usefixtures("extra_packages")
TWO = {
    "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
    "kwargs": [{}, {"keywords": ["cat"], "relation": None}],  # as Arrow gives it, all keys of any row
}


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rlscale\[instructions\]'"):
        InstructionsFollowed()


@needs_package
@pytest.mark.parametrize(
    ("response", "score", "share"),
    [("the cat", 1, 1), ("a, cat", 0, 0.5), ("<think>a, b</think>the cat", 1, 1), ("", 0, 0), ("a dog, a", 0, 0)],
)
def test_all_instructions_are_followed_or_a_share(response: str, score: float, share: float) -> None:
    reward = InstructionsFollowed()
    reward.check_label(TWO)
    found = reward(response, TWO, {})
    assert found == score
    assert sum(found.parts.values()) / 2 == share
    assert InstructionsFollowed(partial=True)(response, TWO, {}) == share
    assert reward(response, TWO["instruction_id_list"], {"kwargs": TWO["kwargs"]}) == score


@needs_package
def test_loose_forgives_a_first_line_and_the_prompt_is_the_last_question() -> None:
    label = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert InstructionsFollowed()("Sure, here:\nthe cat", label, {}) == 0
    assert InstructionsFollowed(loose=True)("Sure, here:\nthe cat", label, {}) == 1
    asked = [{"role": "user", "content": "Say yes."}]
    repeat = {"instruction_id_list": ["combination:repeat_prompt"], "kwargs": [{"prompt_to_repeat": "Say yes."}]}
    assert InstructionsFollowed()("Say yes. Yes", repeat, {}, asked) == 1
    assert InstructionsFollowed()("Yes", repeat, {}, asked) == 0


@needs_package
@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"instruction_id_list": ["punctuation:none"]}, "there is no instruction 'punctuation:none'"),
        ([{"id": 1}], "there is no instruction {'id': 1}"),
        ({**TWO, "kwargs": [{}]}, "2 instructions have 1 kwargs"),
        ({**TWO, "kwargs": [{"n": 1}, {}]}, "no_comma does not take {'n': 1}"),
        ("no commas", "the label must be"),
        ([], "the label must be"),
        ({**TWO, "kwargs": "[{}, {}]"}, r"kwargs must be a list of {...}, one for each instruction, and not '\[{}"),
        ({**TWO, "kwargs": [{}, "cat"]}, "kwargs must be a list of {...}, and one of them is 'cat'"),
        ({**TWO, "kwargs": [{}, {"keywords": None}]}, "keywords:existence has no kwargs, and needs keywords"),
    ],
)
def test_a_label_that_nobody_can_judge_by_is_told(label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InstructionsFollowed().check_label(label)
    found = InstructionsFollowed()("the cat", label, {})
    assert isinstance(found, Failed)
    assert re.search(message, found.reason)


@needs_package
def test_options_of_another_key_that_are_not_there_fail_and_instructions_without_any_are_judged() -> None:
    reward, names = InstructionsFollowed(), TWO["instruction_id_list"]
    reward.check_label([*names, "combination:repeat_prompt"])  # their options are not in the label
    for info in ({}, {"kwargs": None}, {"kwargs": ""}, {"kwargs": "none"}, {"kwargs": [None, None]}, {"kwargs": 3}):
        assert isinstance(reward("the cat", names, info), Failed)
    for info in ({}, {"kwargs": None}, {"kwargs": [None]}, {"kwargs": [{"relation": None}]}):
        assert reward("the cat", names[:1], info) == 1
        assert reward("a, cat", names[:1], info) == 0


@needs_package
def test_data_of_nltk_that_are_not_there_are_a_failure_and_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [])
    label = {"instruction_id_list": ["length_constraints:number_sentences"], "kwargs": [{"num_sentences": 1}]}
    with pytest.raises(ValueError, match=r"number_sentences needs data of NLTK: python -m nltk.downloader punkt"):
        InstructionsFollowed().check_label(label)
    found = InstructionsFollowed()("One.", label, {})
    assert isinstance(found, Failed)
    assert "needs data of NLTK" in found.reason

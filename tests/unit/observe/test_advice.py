"""What a run's numbers advise: each in the state that calls for it, none in a run that is well."""

from __future__ import annotations

import re
from inspect import getsource

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.groups import Groups
from rlscale.config.keys import plain
from rlscale.observe import advice
from rlscale.observe.advice import CHECKS, advise

WELL = {
    "seconds_loop": [10.0] * 20,
    "seconds_generate": [4.0] * 20,
    "seconds_train": [5.0] * 20,
    "seconds_sync": [0.5] * 20,
    "seconds_other": [0.5] * 20,
    "staleness_max": [1.0] * 20,
    "groups": [64.0] * 20,
    "groups_without_signal": [10.0] * 20,
    "reward": [0.5] * 20,
    "truncated": [0.01] * 20,
    "logprob_diff_mean": [1e-4] * 20,
    "entropy": [0.3] * 20,
    "tokens_generated": [100.0] * 20,
    "skipped_steps": [0.0] * 20,
}
BAD = {
    "skipped": ({"skipped_steps": [0.0, 2.0]}, "2 steps of the last 20 iterations were skipped"),
    "waiting_for_engines": ({"seconds_generate": [7.0] * 20}, "the trainer waited 70.0 % of the last 20 iterations"),
    "waiting_for_trainer": ({"staleness_max": [0.0] * 20}, "engines waited 50.0 % of the last 20 iterations for the"),
    "syncing": ({"seconds_sync": [2.0] * 20}, "20.0 % of the last 20 iterations went into giving the engines new"),
    "other_work": ({"seconds_other": [3.0] * 20}, "30.0 % of the last 20 iterations was evaluation"),
    "no_signal": ({"groups_without_signal": [48.0] * 20}, "75.0 % of the groups had equal rewards (mean reward 0.5)"),
    "truncated": ({"truncated": [0.4] * 20}, "40.0 % of the responses were cut"),
    "disagreement": ({"logprob_diff_mean": [0.1] * 20}, "log-probs of trainer and engines differ by 0.1"),
    "collapse": ({"entropy": [0.3, 0.001]}, "entropy fell to 0.001 at a mean reward of 0.5"),
}


def said(numbers: dict[str, list[float]]) -> list[str]:
    return [one.what for one in advise(lambda name: numbers.get(name, []))]


def test_a_run_that_is_well_is_told_nothing() -> None:
    assert said(WELL) == []


def test_every_piece_of_advice_is_tried_here() -> None:
    assert BAD.keys() == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize("check", BAD)
def test_a_state_that_calls_for_it_is_named_with_its_figure(check: str) -> None:
    numbers, words = BAD[check]
    (line,) = said(WELL | numbers)
    assert words in line


def test_engines_that_take_turns_with_the_trainer_are_told_of_the_placement_that_lets_them_go_on() -> None:
    (one,) = advise(lambda name: (WELL | BAD["waiting_for_engines"][0]).get(name, []))
    assert "cluster.placement=disaggregated" in one.change


def test_a_run_without_engines_is_not_told_of_them() -> None:
    assert said(WELL | {"staleness_max": [], "tokens_generated": []}) == []


def test_two_iterations_are_no_reason_for_advice() -> None:
    numbers, _ = BAD["truncated"]
    assert said(WELL | numbers | {"seconds_loop": [10.0, 10.0]}) == []


def test_numbers_that_were_never_measured_or_are_not_finite_advise_nothing() -> None:
    assert said({"seconds_loop": [1.0] * 5}) == []
    assert said({"seconds_loop": [0.0] * 5, "truncated": [float("nan")] * 5}) == []
    assert said(WELL | {"groups": [0.0] * 5, "groups_without_signal": [0.0] * 5}) == []


def test_every_key_that_is_advised_is_one() -> None:
    """Also group options: weights/transport=delta."""
    known, groups = plain(compose(None, [])), Groups.of()
    sections = "|".join(known)
    text = getsource(advice)
    for key in set(re.findall(rf"\b((?:{sections})(?:\.\w+)+)\b", text)):
        if key.startswith("rlscale."):
            continue
        value = known
        for part in key.split("."):
            assert part in value, key
            value = value[part]
    for group, option in re.findall(r"\b(\w+/\w+)=(\w+)", text):
        assert option in groups.options(group), (group, option)

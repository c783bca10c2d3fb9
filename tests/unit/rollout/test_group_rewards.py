"""Rewards that the samples of a group get together: a tournament in the service, and what becomes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_engine import FakeEngine
from made_groups import group_of
from rollout_steps import indices, iterate

from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import OverlongConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.sample import Group, Prompt
from rlscale.envs.configured_group_rewards import GroupRewards, build_group_reward
from rlscale.envs.environment import Action
from rlscale.envs.score import Failed, Score
from rlscale.rollout.failures import FailureRate
from rlscale.rollout.group_judging import GroupJudging
from rlscale.rollout.service import RolloutService
from tests.scripted_judge import scripted_judge

Run = Callable[..., Any]
EXACT = {"_target_": "rlscale.envs.rewards.exact.ExactAnswer"}
NONE = {"_target_": "rlscale.envs.rewards.none.no_reward"}


def longest(first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"


def tournament(url: str, **more: Any) -> dict[str, Any]:
    judge = {
        "_target_": "rlscale.envs.rewards.pair_judge.ModelPairJudge",
        "url": url,
        "model": "any",
        "rubric": "Long is good.",
        "retries": 0,
        "tries": 1,
    }
    return {"_target_": "rlscale.envs.tournament.Tournament", "judge": judge, **more}


async def one_batch(engine: FakeEngine, service: RolloutService) -> tuple[list[Group], dict[str, int]]:
    (batch,) = await iterate(engine, service, 1)
    return batch, (await service.stats()).counters


def test_the_responses_of_a_group_play_against_each_other_and_shaping_stays(run: Run) -> None:
    shaping = OverlongConfig(penalty=1.0, cache_tokens=2)
    with scripted_judge(longest) as (url, asked):
        group = tournament(url)
        batch, counters = run(one_batch, reward=RewardConfig(NONE, group_function=group), overlong=shaping)
    assert counters["failed_rewards"] == 0
    assert len(asked) >= 4 * 6
    places = set()
    for group in batch:
        shown = [len(sample.text.strip() or "(nothing)") for sample in group.samples]
        for sample, own in zip(group.samples, shown, strict=True):
            points = (sum(own > other for other in shown) + (sum(own == other for other in shown) - 1) / 2) / 2
            assert sample.info["reward_parts"] == {"group": points}
            assert sample.info["task_reward"] == points
            places.add(sample.reward - points)  # the penalty for length
    assert len(places) > 1


class Places:
    """The first response gets 0, the second 0.5, ..., in the order of the group, with a part of its own."""

    async def __call__(self, prompt: Prompt, responses: Sequence[Action]) -> list[Score]:
        return [Score(place / 2, {"style": 1.0}) for place in range(len(responses))]


def length(response: str, label: Any, info: dict[str, Any]) -> float:
    return float(len(response))


class MinusLength:
    """Takes away what `length` gave."""

    async def __call__(self, prompt: Prompt, responses: Sequence[Action]) -> list[float]:
        return [-length(one.text, None, {}) for one in responses]


def test_what_is_judged_later_is_the_text_that_the_reward_was_given_without_its_thinking(run: Run) -> None:
    node = {"_target_": f"{__name__}.MinusLength"}
    reward = RewardConfig({"_target_": f"{__name__}.length"}, workers=0, group_function=node)
    batch, counters = run(one_batch, reward=reward, reasoning_parser="qwen3")
    assert counters["failed_rewards"] == 0
    samples = [sample for group in batch for sample in group.samples]
    assert [sample.reward for sample in samples] == [0.0] * 12
    assert any("3" in sample.raw_text for sample in samples)
    for sample in samples:
        said = sample.raw_text.removesuffix("<|im_end|>").rpartition("3")[2]
        assert Action.of(sample).text == sample.text == said


class Uneasy:
    """Cannot judge prompt 1, twice or for ever; fails in the way that it is told."""

    def __init__(self, how: str = "failed", times: int = 2) -> None:
        self.how, self.times, self.calls = how, times, 0

    async def __call__(self, prompt: Prompt, responses: Sequence[Action]) -> Any:
        self.calls += prompt.index == 1
        scores: list[Any] = [1.0] * len(responses)
        if prompt.index != 1 or self.calls > self.times:
            return scores
        if self.how == "raises":
            raise ZeroDivisionError("odd")
        if self.how == "late":
            await asyncio.sleep(5)
        return {"failed": [Failed("offline"), *scores[1:]], "short": scores[1:], "nan": [float("nan")] * 3}[self.how]


def named(kind: type, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{kind.__module__}.{kind.__name__}", **arguments}


def test_it_is_added_to_what_samples_get_by_themselves_and_never_twice() -> None:
    rewards = GroupRewards(RewardConfig(EXACT, group_function=named(Places)), {})
    judging = GroupJudging(rewards, FailureRate("group rewards", "any", 0.0, 1))
    group = group_of(3, [0], [0], [0])
    for sample in group.samples:
        sample.reward, sample.info = 1.0, {"reward_parts": {"format": 1.0}, "turn_rewards": [0.5, 0.5]}
    for _ in range(2):  # a second time, as when the run stopped between judging and the buffer
        asyncio.run(judging.judge(group))
    assert group.rewards.tolist() == [1.0, 1.5, 2.0]
    assert group.samples[2].info["reward_parts"] == {"format": 1.0, "group": 1.0, "group.style": 1.0}


def test_a_source_with_a_reward_of_its_own_has_that_ones_group_reward_or_none() -> None:
    own = {"plain": RewardConfig(EXACT), "placed": RewardConfig(EXACT, group_function=named(Places))}
    rewards = GroupRewards(RewardConfig(EXACT, group_function=named(Uneasy)), own)
    prompt, actions = group_of(2, [0]).prompt, [Action("a", "a", [1])] * 2

    def scores(source: str) -> Any:
        return asyncio.run(rewards.scores(replace(prompt, source=source), actions))

    assert (scores("plain"), scores("placed"), scores("")) == (None, [0.0, 0.5], [1.0, 1.0])


@pytest.mark.parametrize("how", ["failed", "raises", "short", "nan"])
def test_a_group_is_judged_again_with_the_same_samples_where_that_failed(run: Run, how: str) -> None:
    reward = RewardConfig(NONE, group_function=named(Uneasy, how=how))
    batch, counters = run(one_batch, reward=reward)
    assert indices(batch) == [0, 1, 2, 3]
    assert all(sample.reward == 1.0 for group in batch for sample in group.samples)
    assert counters["failed_rewards"] == 2
    assert counters["samples_generated"] == 12


def test_a_group_that_cannot_be_judged_is_given_up_and_too_many_stop_the_run(run: Run) -> None:
    reward = RewardConfig(NONE, group_function=named(Uneasy, times=99), max_failure_rate=0.5)
    batch, counters = run(one_batch, reward=reward)
    assert indices(batch) == [0, 2, 3, 4]
    assert (counters["failed_rewards"], counters["groups_given_up"], counters["failed_requests"]) == (4, 1, 0)
    with pytest.raises(UserError, match=r"group rewards failed, .*reward\.max_failure_rate=0\.1 of 32 .*: offline"):
        run(one_batch, reward=replace(reward, max_failure_rate=0.1))


def test_one_that_takes_too_long_has_failed() -> None:
    late = RewardConfig(NONE, group_function=named(Uneasy, how="late"), timeout_s=0.05)
    scores = asyncio.run(GroupRewards(late, {}).scores(group_of(1, [0]).prompt, [Action("a", "a", [1])] * 2))
    assert scores == [Failed("the group reward took over reward.timeout_s=0.05 seconds")] * 2


def test_a_judge_without_a_verdict_fails_the_group(run: Run) -> None:
    with scripted_judge(lambda first, second: "neither") as (url, _):
        reward = RewardConfig(NONE, group_function=tournament(url))
        with pytest.raises(
            UserError, match=r"pairs could not be judged: the judge of pairs gave no verdict: 'Better: n"
        ):
            run(one_batch, reward=reward)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            {"_target_": "rlscale.envs.tournament.Tournamen"},
            "reward.group_function._target_=.* did you mean Tournament",
        ),
        (tournament("nowhere"), "reward.group_function.judge.url=nowhere/chat/completions: must begin with http"),
        (
            tournament("http://a/v1", kinds="swiss"),
            "reward.group_function.kinds is not an argument .* did you mean reward.group_function.kind",
        ),
        (
            tournament("http://a/v1", kind="swiss"),
            "reward.group_function.kind=swiss: must be round_robin or elimination",
        ),
        (EXACT, "reward.group_function: instances of .*ExactAnswer cannot be called like this"),
    ],
)
def test_what_cannot_judge_groups_is_refused_in_one_line(group: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_group_reward(RewardConfig(EXACT, group_function=group))
    assert "\n" not in str(caught.value)

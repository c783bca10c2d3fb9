"""Episodes of several turns through the whole service: what is asked of the engine, and what is trained on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import END, FakeEngine, encoded, experts_by_place

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.sample import NOT_GENERATED, Group, Prompt, Sample
from rlscale.envs.environment import Action, Environment, Scorer, Start, Step
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]
ROOM = 24
"""Tokens after the prompt: two turns of the fake engine and an observation fit, as a rule."""
START_OF_TURN = 2


class Twice(Environment):
    """Asks 2+2 whatever the first answer was; the second answer is judged by the reward."""

    opened = closed = 0

    def __init__(self, reward: Scorer) -> None:
        self._reward, self._turns = reward, 0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        Twice.opened += 1
        self._prompt, self._seed = prompt, seed
        return Start()

    async def step(self, action: Action) -> Step:
        self._turns += 1
        if self._turns == 1:
            await self._think()
            return Step([{"role": "user", "content": "2+2="}], reward=0.25, info={"seed": self._seed, "first": True})
        right = await self._reward.score(action, self._prompt)
        return Step(reward=1.0 + right, done=True, info={"first": False})

    async def _think(self) -> None: ...

    async def close(self) -> None:
        Twice.closed += 1


class Thinks(Twice):
    """Asks again when it may."""

    thinking: int
    may_go_on: asyncio.Event

    async def _think(self) -> None:
        Thinks.thinking += 1
        await self.may_go_on.wait()


class Odd(Environment):
    """Does what `how` says in its step."""

    def __init__(self, how: str) -> None:
        self._how = how

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        if self._how == "reset":
            raise OSError("no server")
        return Start(max_turns={"capped": 2, "silent at the end": 1}.get(self._how))

    async def step(self, action: Action) -> Any:
        match self._how:
            case "raises":
                raise OSError("the tool is gone")
            case "hangs":
                await asyncio.sleep(60)
            case "exits":
                raise SystemExit(3)
            case "silent" | "silent at the end":
                return Step()
            case "nan":
                return Step(reward=float("nan"), done=True)
            case "no role":
                return Step([{"content": "hm"}])
            case "forgets":
                return Step([{"role": "user", "content": "1+1="}], reward=0.5, restart=True)
            case "capped" | "talks on":
                return Step([{"role": "user", "content": "+"}], reward=0.5)
        return None


def node(environment: type, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{environment.__name__}", **arguments}


async def one_batch(engine: FakeEngine, service: RolloutService) -> tuple[list[Group], list[dict[str, Any]]]:
    engine.routed = lambda tokens: encoded(experts_by_place(tokens))
    await service.resume(0)
    return await service.next_batch(), engine.requests


def finished(groups: list[Group]) -> list[tuple[Prompt, Sample]]:
    """The samples in which both turns fitted."""
    found = [(group.prompt, sample) for group in groups for sample in group.samples if "turn_rewards" in sample.info]
    assert len(found) >= 4
    return found


def turns(sample: Sample) -> list[tuple[int, int]]:
    """Where each turn of the policy begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.loss_mask.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def test_the_second_turn_continues_the_very_tokens_of_the_first_behind_a_masked_observation(run: Run) -> None:
    groups, requests = run(one_batch, env=node(Twice), max_response_tokens=ROOM)
    sent = {(tuple(body["input_ids"]), body["sampling_params"]["sampling_seed"]): body for body in requests}
    for prompt, sample in finished(groups):
        (a, b), (c, d) = turns(sample)
        assert (a, d) == (sample.prompt_length, len(sample.tokens))
        assert sample.tokens[:a].tolist() == prompt.tokens.tolist()
        # "2+2=" in tokens of one character, and what opens the policy's turn; the end token was sampled by itself.
        assert sample.tokens[b - 1] == END
        assert sample.tokens[b:c].tolist() == [6, 14, 6, 15, START_OF_TURN]
        assert (sample.versions[b:c] == NOT_GENERATED).all()
        assert not sample.rollout_logprobs[b:c].any()
        assert np.allclose(sample.rollout_logprobs[c:d], -np.log(8.0))
        seeds = [request_seed(5, prompt.index, sample.index, turn) for turn in (0, 1)]
        first, second = sent[tuple(sample.tokens[:a].tolist()), seeds[0]], sent[tuple(sample.tokens[:c]), seeds[1]]
        assert first["sampling_params"]["max_new_tokens"] == ROOM
        assert second["sampling_params"]["max_new_tokens"] == ROOM - (c - a)
    batch = Batch.from_groups(groups)
    assert batch.column("loss_mask").sum() == sum(int(s.loss_mask.sum()) for g in groups for s in g.samples)


@pytest.mark.parametrize(
    ("given", "sticky"),
    [
        ({"engines": 2}, True),
        ({"engines": 2, "router": {"policy": "manual"}}, True),
        ({"engines": 2, "router": {"policy": "power_of_two"}}, False),
        ({"engines": 1}, False),
    ],
)
def test_with_several_engines_a_samples_turns_name_one_trajectory_to_the_router(
    run: Run, given: dict[str, Any], sticky: bool
) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> Any:
        await one_batch(engine, service)
        return engine.requests, engine.trajectories

    requests, named = run(scenario, env=node(Twice), max_response_tokens=ROOM, **given)
    if not sticky:
        assert set(named) == {None}
        return
    assert None not in named
    samples = {name: [b for b, other in zip(requests, named, strict=True) if other == name] for name in set(named)}
    for turns_of in samples.values():
        longest = max((body["input_ids"] for body in turns_of), key=len)
        assert all(longest[: len(body["input_ids"])] == body["input_ids"] for body in turns_of), "of one trajectory"
    assert max(len(turns_of) for turns_of in samples.values()) == 2
    first_seeds = [turns_of[0]["sampling_params"]["sampling_seed"] for turns_of in samples.values()]
    assert len(set(first_seeds)) == len(samples) >= 6


def test_rewards_of_the_turns_are_added_and_the_last_information_stays(run: Run) -> None:
    groups, _ = run(one_batch, env=node(Twice), max_response_tokens=ROOM)
    rewards = set()
    for prompt, sample in finished(groups):
        last = sample.tokens[turns(sample)[1][0] :]
        right = float("".join("0123456789+="[t - 4] for t in last if t > 3) == prompt.label)
        assert sample.info == {
            "seed": request_seed(5, prompt.index, sample.index),
            "first": False,
            "turn_rewards": [0.25, 1.0 + right],
        }
        assert sample.reward == 1.25 + right
        assert "2+2=" in sample.text
        rewards.add(sample.reward)
    assert rewards <= {1.25, 2.25}


@pytest.mark.parametrize("node_of", [lambda: node(Twice), lambda: node(Odd, how="forgets")], ids=["one", "segments"])
def test_samples_bring_each_turns_reward_at_its_last_token_where_turns_are_credited(run: Run, node_of: Any) -> None:
    groups, _ = run(one_batch, env=node_of(), max_response_tokens=ROOM, credits_turns=True)
    for _, sample in finished(groups):
        column = sample.columns["turn_reward"]
        ends = np.flatnonzero(~np.isnan(column))
        assert ends.tolist() == [end - 1 for _, end in turns(sample)]
        assert column[ends].tolist() == sample.info["turn_rewards"]
    column = Batch.from_groups(groups).column("turn_reward")
    assert np.nansum(column) == sum(sample.reward for group in groups for sample in group.samples)


def test_every_environment_is_closed_once(run: Run) -> None:
    Twice.opened = Twice.closed = 0
    run(one_batch, env=node(Twice), max_response_tokens=ROOM)
    assert (Twice.opened, Twice.closed) == (12, 12)


def test_experts_of_both_turns_are_kept(run: Run) -> None:
    sizes = ExpertSizes(layers=3, top_k=2, experts=6)
    groups, _ = run(one_batch, env=node(Twice), max_response_tokens=ROOM, experts=sizes)
    for _, sample in finished(groups):
        assert sample.routed_experts[:-1].tolist() == experts_by_place(len(sample.tokens) - 1).tolist()
        assert (sample.routed_experts[-1] == -1).all()


def test_a_sync_between_two_turns_is_a_boundary_of_versions(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[Group]:
        Thinks.thinking, Thinks.may_go_on = 0, asyncio.Event()
        await service.resume(0)
        while Thinks.thinking < 12:
            await asyncio.sleep(0.005)
        await service.pause()  # no request is under way
        await service.resume(1)
        Thinks.may_go_on.set()
        return await service.next_batch()

    groups = run(scenario, env=node(Thinks), max_response_tokens=ROOM, max_staleness=1)
    for _, sample in finished(groups):
        versions = [set(sample.versions[a:b].tolist()) for a, b in turns(sample)]
        assert versions == [{0}, {1}]
        assert sample.min_version == 0


def test_after_a_restart_the_policy_goes_on_behind_the_new_messages_alone(run: Run) -> None:
    groups, requests = run(one_batch, env=node(Odd, how="forgets"), max_response_tokens=ROOM)
    sent = [body["input_ids"] for body in requests]
    several = [sample for _, sample in finished(groups)]
    for sample in several:
        first, *later = sample.segments
        assert len(later) == len(sample.info["turn_rewards"]) - 1
        begin = first.length
        for segment in later:
            shown = sample.tokens[begin : begin + segment.context].tolist()
            assert shown == [5, 14, 5, 15, START_OF_TURN]  # 1+1=
            assert shown in sent
            assert not sample.loss_mask[begin : begin + segment.context].any()
            assert sample.loss_mask[begin + segment.context : begin + segment.length].all()
            begin += segment.length
        assert begin == len(sample.tokens)
        assert sample.response_length == sample.loss_mask.sum() <= ROOM
    assert Batch.from_groups(groups).rows == sum(len(s.segments) for g in groups for s in g.samples) > 12


def test_an_episode_without_room_for_another_turn_counts_as_cut_off(run: Run) -> None:
    groups, _ = run(one_batch, env=node(Odd, how="talks on"), max_response_tokens=12)
    for group in groups:
        for sample in group.samples:
            assert sample.truncated
            assert sample.prompt_length < len(sample.tokens) <= sample.prompt_length + 12
            assert sample.loss_mask[-1]  # nothing is observed that nothing follows
            assert sample.reward == 0.5 * len(turns(sample))
    assert {len(turns(sample)) for group in groups for sample in group.samples} >= {1, 2, 3}


def test_the_environment_may_cap_the_turns(run: Run) -> None:
    groups, _ = run(one_batch, env=node(Odd, how="capped"), max_response_tokens=40)
    counts = {len(turns(sample)) for group in groups for sample in group.samples}
    assert max(counts) == 2
    assert all(sample.truncated for group in groups for sample in group.samples)


def test_so_may_the_configuration(run: Run) -> None:
    groups, _ = run(one_batch, env=node(Odd, how="talks on"), max_response_tokens=60, max_turns=3)
    samples = [sample for group in groups for sample in group.samples]
    assert max(len(turns(sample)) for sample in samples) == 3
    assert all(sample.truncated for sample in samples)


def test_a_turn_may_be_capped_and_the_episode_goes_on(run: Run) -> None:
    groups, requests = run(
        one_batch, env=node(Odd, how="talks on"), max_response_tokens=20, max_turn_tokens=2, max_turns=4
    )
    assert {body["sampling_params"]["max_new_tokens"] for body in requests} <= {1, 2}
    samples = [sample for group in groups for sample in group.samples]
    lengths = {end - begin for sample in samples for begin, end in turns(sample)}
    assert max(lengths) == 2
    assert max(len(turns(sample)) for sample in samples) == 4


def test_no_turn_begins_after_the_time_of_an_episode(run: Run) -> None:
    groups, _ = run(one_batch, env=node(Odd, how="talks on"), max_response_tokens=60, max_episode_s=1e-9)
    samples = [sample for group in groups for sample in group.samples]
    assert {len(turns(sample)) for sample in samples} == {1}
    assert all(sample.truncated for sample in samples)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("reset", "the environment raised OSError: no server"),
        ("raises", "the environment raised OSError: the tool is gone"),
        ("exits", "the environment raised SystemExit: 3"),
        ("silent", "the environment's step has no messages and is not done"),
        ("silent at the end", "the environment's step has no messages and is not done"),
        ("nan", "nan instead of a finite number"),
        ("nothing", "the environment returned NoneType instead of a Step"),
        ("no role", "the environment's step message 0 has no role"),
    ],
)
def test_a_failing_environment_is_counted_and_stops_the_run(run: Run, how: str, reason: str) -> None:
    with pytest.raises(UserError, match="rewards failed, which is more than reward") as raised:
        run(one_batch, env=node(Odd, how=how))
    assert reason in str(raised.value)


def test_an_environment_that_hangs_is_given_up_after_its_time(run: Run) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"the environment took over rollout.step_timeout_s=0.1 seconds"):
        run(one_batch, env=node(Odd, how="hangs"), step_timeout_s=0.1)
    assert time.monotonic() - began < 20


def test_an_environment_that_takes_no_reward_needs_none(run: Run) -> None:
    groups, _ = run(one_batch, env=node(Odd, how="capped"), reward=RewardConfig(), max_response_tokens=40)
    assert len(groups) == 4
    with pytest.raises(UserError, match=r"reward\.function is empty"):
        run(one_batch, env=node(Twice), reward=RewardConfig())

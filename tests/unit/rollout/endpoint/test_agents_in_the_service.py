"""Agents through the whole rollout service: what is asked of the engine, what is trained on, and what fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package: fake_engine.py is found there

from fake_engine import FakeEngine

from rlscale.config.errors import UserError
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.endpoint.command_agent import CommandAgent
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService

Scenario = Callable[[FakeEngine, RolloutService], Any]


class Asks:
    """Asks for sums one after another, `turns` of them, and does with the answers what `how` says."""

    def __init__(self, turns: int = 2, how: str = "scores", asked: dict[str, Any] | None = None) -> None:
        self._turns, self._how, self._fields = turns, how, asked or {}

    async def run(self, prompt: Prompt, base_url: str, key: str, seed: int) -> Any:
        said = [dict(message) for message in prompt.messages]
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
            for _ in range(self._turns):
                body = {"model": "policy", "messages": said, "max_tokens": 3, **self._fields}
                async with http.post(f"{base_url}/chat/completions", json=body, raise_for_status=True) as answer:
                    message = (await answer.json())["choices"][0]["message"]
                said += [message, {"role": "user", "content": "2+2="}]
        match self._how:
            case "scores":
                return len(message["content"])
            case "crashes":
                raise OSError("out of disk")
            case "hangs":
                await asyncio.sleep(60)
            case "says nan":
                return float("nan")
        return None


@pytest.fixture
def batch(spec: RolloutSpec) -> Callable[..., list[Group]]:
    """`batch(agent=AgentConfig(...), key=value)`: the first batch with those rollout keys; accounts have to balance."""

    def call(agent: AgentConfig, scenario: Scenario | None = None, **rollout: Any) -> list[Group]:
        async def main() -> list[Group]:
            keys = {"max_response_tokens": 24, **rollout}
            changed = replace(spec, agent=agent, rollout=replace(spec.rollout, **keys))
            async with FakeEngine() as engine:
                service = RolloutService(changed)
                await service.start(engine.url, engine.api_key)
                try:
                    await service.resume(0)
                    if scenario is not None:
                        await scenario(engine, service)
                    groups = await asyncio.wait_for(service.next_batch(), 20)
                    await service.stats()  # raises where a token is unaccounted for
                    return groups
                finally:
                    await service.close()

        return asyncio.run(main())

    return call


def agent(_target_: type | None = Asks, **fields: Any) -> AgentConfig:
    keys = {name: fields.pop(name) for name in ("timeout_s", "command") if name in fields}
    target = None if _target_ is None else f"{__name__}.{_target_.__name__}"
    return AgentConfig(_target_=target, arguments=fields, **keys)


def samples(groups: list[Group]) -> list[Sample]:
    return [sample for group in groups for sample in group.samples]


def test_an_agents_calls_become_one_sample_with_the_reward_that_it_gives(batch: Callable[..., list[Group]]) -> None:
    found = samples(batch(agent()))
    assert len(found) == 12
    for sample in found:
        assert len(sample.segments) == 1
        assert sample.info["turns"] == 2
        edges = np.flatnonzero(np.diff(sample.loss_mask.astype(int))) + 1
        last = sample.tokens[edges[2] :]
        assert sample.reward == sum(token > 3 for token in last)
        assert set(sample.versions[sample.loss_mask].tolist()) == {0}
        assert not sample.rollout_logprobs[~sample.loss_mask].any()


def test_what_an_agent_asks_for_in_vain_is_in_its_samples_and_written_down_once(
    batch: Callable[..., list[Group]], caplog: pytest.LogCaptureFixture
) -> None:
    found = samples(batch(agent(asked={"temperature": 0.25, "tool_choice": "required"})))
    assert {tuple(sample.info["unheeded"]) for sample in found} == {("temperature", "tool_choice")}
    assert sum("an agent asks for temperature=0.25" in line for line in caplog.messages) == 1


def test_without_a_reward_of_its_own_the_last_answer_is_judged_by_the_configured_one(
    batch: Callable[..., list[Group]],
) -> None:
    groups = batch(agent(turns=1, how="leaves it"))
    for group in groups:
        for sample in group.samples:
            assert sample.reward == float(sample.text == group.prompt.label)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"how": "crashes"}, "the agent failed: OSError out of disk"),
        ({"turns": 0, "how": "leaves it"}, "ended without a call of the policy"),
        ({"how": "says nan"}, "nan instead of a finite number"),
        ({"how": "hangs", "timeout_s": 0.001}, "agent.timeout_s=0.001 seconds"),
    ],
)
def test_an_agent_that_fails_gives_no_sample(
    batch: Callable[..., list[Group]], fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlscale.rollout.endpoint.agent_episodes._GRACE_S", 0.05)
    with pytest.raises(UserError, match=message):
        batch(agent(**fields))


def test_an_agent_that_the_end_of_its_budget_brings_down_has_lost_and_not_failed(
    batch: Callable[..., list[Group]],
) -> None:
    for sample in samples(batch(agent(turns=9), max_turns=2)):
        assert (sample.reward, sample.finish_reason, sample.info["turns"]) == (0.0, "length", 2)


def test_an_engine_that_answers_nothing_fails_the_sample_as_a_request(batch: Callable[..., list[Group]]) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        engine.fault = lambda body: 400

    with pytest.raises(UserError, match=r"requests failed, .*rollout\.max_failure_rate.*HTTP 400"):
        batch(agent(), scenario=scenario)


def test_a_sync_in_the_middle_is_in_the_versions_of_the_tokens_and_nowhere_else(
    batch: Callable[..., list[Group]],
) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        engine.delay = lambda body: 0.05
        while len(engine.requests) < 10:  # the first turns of two samples are over
            await asyncio.sleep(0.01)
        await service.pause()
        engine.synced = "1"
        await service.resume(1)

    found = samples(batch(agent(turns=3), scenario=scenario, max_staleness=1, on_sync="wait"))
    assert frozenset({0, 1}) in {frozenset(sample.versions[sample.loss_mask].tolist()) for sample in found}
    assert all(len(sample.segments) == 1 for sample in found)


PROGRAM = """
import json, os, sys, urllib.request
task = json.loads(sys.stdin.readline())
body = json.dumps({"messages": task["messages"]}).encode()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, headers)
answer = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
print("thinking about it")
print(json.dumps({"reward": len(answer)}) if "scores" in sys.argv else answer)
sys.exit(3 if "breaks" in sys.argv else 0)
"""


def test_a_command_is_an_agent(batch: Callable[..., list[Group]], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"{sys.executable} -S {tmp_path / 'program.py'}"
    sizes = {"groups_per_iteration": 1, "samples_per_group": 2}
    for sample in samples(batch(agent(None, command=f"{command} scores"), **sizes)):
        assert sample.reward == len(sample.text)
    for group in batch(agent(None, command=command), **sizes):
        assert [sample.reward for sample in group.samples] == [
            float(s.text == group.prompt.label) for s in group.samples
        ]
    with pytest.raises(UserError, match=r"CommandFailed .* ended with status 3"):
        batch(agent(None, command=f"{command} breaks"), **sizes)


class NotAnAgent:
    """Has no run."""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AgentConfig(_target_="no.such.module"), "no.such.module"),
        (agent(NotAnAgent), "has no `async def run"),
        (agent(steps=3), r"agent\.arguments\.steps"),
        (agent(command="true"), "agent.command and agent._target_ are both set"),
    ],
)
def test_an_agent_that_cannot_be_made_is_an_error_at_the_start(
    spec: RolloutSpec, config: AgentConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        RolloutService(replace(spec, agent=config))


@pytest.mark.parametrize("last", ["[" * 100_000, "12", "{", "", '"reward"', '{"answer": 1}'])
def test_a_program_whose_last_words_are_no_reward_leaves_it_to_the_configured_one(last: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text(last)
    prompt = Prompt(0, "0", np.array([1], np.int32), "4")
    given = CommandAgent(f"/bin/cat {tmp_path / 'said'}").run(prompt, "http://127.0.0.1:1/v1", "key", 7)
    assert asyncio.run(given) is None

"""The rollout service on a real SGLang server, alone and behind the real router."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai import AsyncOpenAI
from shared_server import SharedServer
from transformers import AutoModelForCausalLM

from rlscale.config.schema import SINGLE_TURN
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.config.schema.data_config import ArithmeticData
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.data.sample import Group, Prompt
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.rollout.endpoint.chat_messages import ToolCall
from rlscale.rollout.endpoint.output_parser import EngineParser, Parsed
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService
from rlscale.serve.http import call
from rlscale.serve.router import RouterClient
from rlscale.serve.supervisor import Supervisor


@pytest.fixture(scope="module")
def router(shared_server: SharedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a router in front of the shared engine, which has the weights of its folder."""
    shared_server.load_folder()
    folder: Path = tmp_path_factory.mktemp("router")
    supervisor = Supervisor(folder / "logs", folder, shared_server.api_key)
    try:
        url = supervisor.start_router()
        RouterClient(url, shared_server.api_key).add(shared_server.url)
        yield url
    finally:
        supervisor.stop()


def synced_first(server: SharedServer, method: Callable[[int], Awaitable[Any]]) -> Callable[[int], Awaitable[Any]]:
    """The method, after the engine was told that its weights are of that version, as a run would send new ones."""

    async def call_it(version: int) -> Any:
        body = {"new_version": str(version), "abort_all_requests": False}
        await asyncio.to_thread(call, server.url, "/update_weight_version", server.api_key, body, timeout=60)
        return await method(version)

    return call_it


class AsksAgain(Environment):
    """One more sum after the first answer."""

    def __init__(self) -> None:
        self._turns = 0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        return Start()

    async def step(self, action: Action) -> Step:
        self._turns += 1
        return Step([{"role": "user", "content": "1+1="}], reward=0.5, done=self._turns == 2)


class Branches:
    """Two questions one after another, then two others behind the first answer at once."""

    async def run(self, prompt: Prompt, base_url: str, key: str, seed: int) -> float:
        async with AsyncOpenAI(base_url=base_url, api_key=key) as client:

            async def ask(*messages: Any) -> list[Any]:
                given: Any = {"model": "policy", "messages": messages, "max_tokens": 4}
                answer = await client.chat.completions.create(**given)
                return [*messages, answer.choices[0].message.model_dump(exclude_unset=True)]

            first = await ask(*prompt.messages)
            await ask(*first, {"role": "user", "content": "1+1="})
            await asyncio.gather(*(ask(*first, {"role": "user", "content": f"{n}+2="}) for n in range(2)))
        return 1.0


def serve(
    server: SharedServer,
    url: str,
    scenario: Callable[[RolloutService], Awaitable[Any]],
    env: str = SINGLE_TURN,
    agent: AgentConfig | None = None,
    **rollout: Any,
) -> Any:
    """The scenario's result, with a service of 6 groups of 4 samples."""
    sizes = {"groups_per_iteration": 6, "samples_per_group": 4, "max_response_tokens": 6}
    spec = RolloutSpec(
        rollout=RolloutConfig(**sizes | rollout),
        reward=RewardConfig(function={"_target_": "rlscale.envs.rewards.exact.ExactAnswer"}),
        data=ArithmeticData(),
        eval=EvalConfig(data=ArithmeticData(split="held_out"), prompts=10, samples_per_prompt=3, pass_k=[1, 3]),
        seed=3,
        tokenizer_folder=str(server.model_folder),
        env={"_target_": env},
        agent=agent or AgentConfig(),
    )

    async def main() -> Any:
        service = RolloutService(spec)
        await service.start(url, server.api_key)
        for name in ("resume", "evaluate"):
            setattr(service, name, synced_first(server, getattr(service, name)))
        try:
            return await asyncio.wait_for(scenario(service), 120)
        finally:
            await service.close()

    return asyncio.run(main())


async def two_batches(service: RolloutService) -> list[Group]:
    groups = []
    for version in range(2):
        await service.resume(version)
        groups += await service.next_batch()
        await service.pause()
    return groups


def samples(groups: list[Group]) -> list[list[int]]:
    return [sample.tokens.tolist() for group in groups for sample in group.samples]


def test_the_same_seed_gives_the_same_tokens_through_the_router_and_without_it(
    shared_server: SharedServer, router: str
) -> None:
    direct = serve(shared_server, shared_server.url, two_batches)
    routed = serve(shared_server, router, two_batches, max_concurrent=5)
    assert samples(direct) == samples(routed)
    assert [group.prompt.index for group in direct] == list(range(12))
    assert len({tuple(tokens) for tokens in samples(direct)}) > 40


def test_logprobs_of_the_engine_are_those_of_the_model(shared_server: SharedServer, router: str) -> None:
    shared_server.load_folder()
    groups = serve(shared_server, router, two_batches)
    # A second turn, behind tokens that were not sampled, is held to the same.
    reads: Any = {"max_response_tokens": 24, "reasoning_parser": "qwen3", "tool_parser": "qwen25"}
    several = serve(shared_server, router, two_batches, env=f"{__name__}.AsksAgain", **reads)
    assert sum("turn_rewards" in sample.info for group in several for sample in group.samples) > 10
    # So are the segments of an agent, each on its own.
    agent = AgentConfig(_target_=f"{__name__}.Branches")
    groups += several + serve(shared_server, router, two_batches, agent=agent, **reads)
    assert {len(sample.segments) for sample in groups[-1].samples} == {3}
    model = AutoModelForCausalLM.from_pretrained(shared_server.model_folder, dtype=torch.float32)
    for sample in (sample for group in groups for sample in group.samples):
        ends = np.cumsum([segment.length for segment in sample.segments])
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            tokens = torch.tensor(sample.tokens[start:end], dtype=torch.int64)
            with torch.no_grad():
                logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1)
            expected = logprobs.gather(1, tokens[1:, None])[:, 0].numpy()
            mask = sample.loss_mask[start + 1 : end]
            assert np.abs(sample.rollout_logprobs[start + 1 : end][mask] - expected[mask]).max() < 1e-4


def test_the_engines_parsers_tell_thinking_and_calls_from_text(shared_server: SharedServer, router: str) -> None:
    add = {"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object"}}}
    call = '<tool_call>\n{"name": "add", "arguments": {"b": 2, "a": 1}}\n</tool_call>'

    async def parse() -> list[Any]:
        client = EngineClient(router, shared_server.api_key)  # the router does not pass this on: an engine is asked
        parser = EngineParser(client, "qwen25", "qwen3")
        try:
            thought = await parser.reasoning(f"<think>hm</think>{call}")
            texts = (thought[1], "just text", call[:30], call.replace("add", "mul"), f"{call}\n{call}")
            return [thought[0], *[await parser.calls(text, [add]) for text in texts]]
        finally:
            await client.close()

    one = ToolCall("add", '{"a":1,"b":2}')
    thinking, called, plain, cut, unknown, twice = asyncio.run(parse())
    assert thinking == "hm"
    assert (called.calls, plain, twice.calls) == ((one,), Parsed("just text"), (one, one))
    assert cut == Parsed(call[:30], cut_off=True)
    assert unknown == Parsed(call.replace("add", "mul"), cut_off=True)


def test_an_evaluation_of_the_same_weights_repeats_itself(shared_server: SharedServer, router: str) -> None:
    async def scenario(service: RolloutService) -> list[Any]:
        return [await service.evaluate(version) for version in (0, 1)]

    first, second = serve(shared_server, router, scenario)
    assert samples(first.groups) == samples(second.groups)
    assert first.pass_at_k == second.pass_at_k
    assert set(first.pass_at_k) == {1, 3}
    assert (first.prompts, first.samples, first.failures) == (10, 30, 0)


def test_the_next_batch_is_generated_while_the_trainer_has_this_one(shared_server: SharedServer, router: str) -> None:
    async def scenario(service: RolloutService) -> tuple[int, int, int]:
        await service.resume(0)
        await service.next_batch()
        for _ in range(200):
            await asyncio.sleep(0.05)
            if (await service.stats()).counters["samples_generated"] == 48:
                break
        generated = (await service.stats()).counters["samples_generated"]
        await service.pause()
        await service.resume(1)
        batch = await service.next_batch()
        return generated, 1 - min(group.min_version for group in batch), len(batch)

    assert serve(shared_server, router, scenario, max_staleness=1, stale=Stale.wait) == (48, 1, 6)

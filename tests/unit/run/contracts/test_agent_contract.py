"""The contract test of agents, on agents that do more than ask one thing after another."""

from __future__ import annotations

import asyncio
import gc

import aiohttp
import pytest

from rlscale.data.sample import Prompt
from rlscale.run.contracts.agent_contract import check_agent
from rlscale.trainer.hook_contract.findings import Status


class Team:
    """Asks the same four times at one moment, in few tokens: what engines are sent in one request."""

    async def run(self, prompt: Prompt, base_url: str, key: str, seed: int) -> float:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:

            async def ask(number: int) -> None:
                body = {"messages": list(prompt.messages), "max_tokens": 8, "seed": number}
                async with http.post(f"{base_url}/chat/completions", json=body) as answer:
                    assert answer.status == 200

            await asyncio.gather(*map(ask, range(4)))
        return 1.0


def test_an_agent_that_asks_several_things_at_once_gets_all_answers(caplog: pytest.LogCaptureFixture) -> None:
    found = {one.check: one for one in check_agent(Team)}
    gc.collect()  # a task whose exception nobody saw says so when it goes
    assert caplog.messages == []
    assert found["calls"].found.startswith("4 ")
    assert [name for name, one in found.items() if one.status is not Status.passed] == ["segments"]

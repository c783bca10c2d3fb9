"""Fixtures of the rollout's unit tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package: fake_engine.py is found here

from fake_engine import FakeEngine

from rlscale.config.schema.algo_config import OverlongConfig, RefillConfig
from rlscale.config.schema.data_config import ArithmeticData
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService

settings.register_profile(
    "fifty",
    max_examples=50,
    derandomize=True,  # the same examples every time
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thousand", settings.get_profile("fifty"), max_examples=1000)
settings.load_profile("fifty")


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RolloutSpec:
    """4 groups of 3 samples, on-policy."""
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer("0123456789+=", 64).save_pretrained(folder)
    return RolloutSpec(
        rollout=RolloutConfig(
            groups_per_iteration=4, samples_per_group=3, max_response_tokens=6, max_concurrent=8, request_timeout_s=20.0
        ),
        reward=RewardConfig(function={"_target_": "rlscale.envs.rewards.exact.ExactAnswer"}),
        data=ArithmeticData(max_number=20),
        eval=EvalConfig(data=ArithmeticData(max_number=20, split="held_out"), prompts=6, samples_per_prompt=2),
        seed=5,
        tokenizer_folder=str(folder),
    )


Scenario = Callable[[FakeEngine, RolloutService], Awaitable[Any]]


@asynccontextmanager
async def started(spec: RolloutSpec, engine: FakeEngine) -> AsyncIterator[RolloutService]:
    """A service connected to the engine, not generating yet; the engine is given each version as the run would."""
    service = RolloutService(spec)
    resume = service.resume

    async def sync_and_resume(version: int) -> None:
        engine.synced = str(version)
        await resume(version)

    service.resume = sync_and_resume
    await service.start(engine.url, engine.api_key)
    try:
        yield service
    finally:
        await service.close()


@pytest.fixture(scope="session")
def run(spec: RolloutSpec) -> Callable[..., Any]:
    """`run(scenario, key=value)`: the scenario's result, with a fresh engine and a service with those rollout keys.

    `reward`, `overlong`, `refill`, `experts`, `env`, `credits_turns` and `journal` replace those of the spec.
    """

    def call(
        scenario: Scenario,
        reward: RewardConfig | None = None,
        overlong: OverlongConfig | None = None,
        refill: RefillConfig | None = None,
        experts: ExpertSizes | None = None,
        env: dict[str, Any] | None = None,
        credits_turns: bool = False,
        journal: str = "",
        **rollout: Any,
    ) -> Any:
        results: list[Any] = []

        async def main() -> None:
            changed = replace(
                spec,
                rollout=replace(spec.rollout, **rollout),
                reward=reward or spec.reward,
                overlong=overlong or spec.overlong,
                refill=refill or spec.refill,
                experts=experts or spec.experts,
                env=env or spec.env,
                credits_turns=credits_turns,
                journal=journal,
                journal_ahead=rollout.get("max_staleness", 0),
            )
            async with FakeEngine() as engine, started(changed, engine) as service:
                results.append(await asyncio.wait_for(scenario(engine, service), 30))

        asyncio.run(main())  # which would write out all that it returns, as it puts the handler of SIGINT back
        return results[0]

    return call

"""Whatever happens to engines and processes, no prompt and no token is lost, and the bound is kept.

Fifty random courses here; `--hypothesis-profile=thousand` plays a thousand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_schedule import Course, Step, run_course

from rlscale.config.schema.algo_config import RefillConfig
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.data_config import CustomData
from rlscale.config.schema.rollout_config import OnSync, RolloutConfig, Stale
from rlscale.config.schema.simulator_config import FaultsConfig
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.rollout_spec import RolloutSpec

WORKLOAD = "rlscale.run.simulation.simulated_workload"


@pytest.fixture(scope="module")
def simulated_spec(spec: RolloutSpec) -> RolloutSpec:
    return replace(
        spec,
        data=CustomData(source={TARGET: f"{WORKLOAD}.SimulatedPrompts", "tokens": 4}),
        env={TARGET: f"{WORKLOAD}.SimulatedEnvironment", "solved": 0.5, "seconds": 0.5},
        refill=RefillConfig(drop_equal=True, max_dropped=0.5),
    )


@st.composite
def rollouts(draw: st.DrawFn) -> RolloutConfig:
    bound = draw(st.integers(0, 4))
    over = draw(st.sampled_from([1.0, 1.0, 2.0])) if bound else 1.0
    return RolloutConfig(
        groups_per_iteration=draw(st.integers(1, 3)),
        samples_per_group=draw(st.integers(1, 3)),
        max_prompt_tokens=16,
        max_response_tokens=draw(st.sampled_from([4, 24])),
        max_staleness=bound,
        stale=draw(st.sampled_from(Stale)) if bound else Stale.mask,
        over_sampling=over,
        on_sync=draw(st.sampled_from(OnSync)) if bound else OnSync.wait,
        max_concurrent=draw(st.integers(1, 4)),
        request_timeout_s=100.0,
        max_failure_rate=1.0,
    )


SHARES = st.sampled_from([0.0, 0.0, 0.05, 0.2])
NONE = st.just(FaultsConfig())
FAULTS = NONE | st.builds(
    FaultsConfig,
    lost=SHARES,
    stalled=st.sampled_from([0.0, 0.05]),
    duplicated=SHARES,
    rubbish=SHARES,
    crashed=st.sampled_from([0.0, 0.0, 0.05]),
    restart_s=st.just(5.0),
)
SECONDS = st.sampled_from([0.0, 0.5, 3.0, 7.5, 20.0])
TRAINED = st.builds(Step, before_s=SECONDS, train_s=SECONDS)
AT_ANY_TICK = st.floats(0.0, 25.0)
RESTART = st.builds(Step, before_s=AT_ANY_TICK, restart=st.just(True))
INTERRUPTED = st.builds(Step, before_s=AT_ANY_TICK, interrupted=st.just(True))
SAVED = st.builds(Step, before_s=SECONDS, train_s=SECONDS, saved=st.just(True))
KILLED = st.builds(Step, before_s=AT_ANY_TICK, killed=st.just(True))
STEPS = st.lists(TRAINED | SAVED | RESTART | INTERRUPTED | KILLED, min_size=1, max_size=5).map(tuple)


@given(st.builds(Course, rollouts(), FAULTS, st.integers(1, 3), st.integers(0, 1000), STEPS))
def test_every_prompt_and_token_is_accounted_for_and_the_bound_is_kept(
    simulated_spec: RolloutSpec, course: Course
) -> None:
    run_course(simulated_spec, course)


def test_a_client_that_has_everything_generated_twice_shows(
    simulated_spec: RolloutSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = EngineClient.generate

    async def twice(self: EngineClient, *args: Any, **named: Any) -> Generation:
        await once(self, *args, **named)
        return await once(self, *args, **named)

    monkeypatch.setattr(EngineClient, "generate", twice)
    rollout = RolloutConfig(groups_per_iteration=1, samples_per_group=1, max_prompt_tokens=16, max_response_tokens=4)
    with pytest.raises(AssertionError, match="received"):
        run_course(simulated_spec, Course(rollout, FaultsConfig(), 1, 0, (Step(),)))


@pytest.mark.parametrize("steps", [(), (Step(saved=True), Step())], ids=["before any checkpoint", "after one"])
@pytest.mark.parametrize("bound", [0, 2])
def test_groups_that_were_finished_when_everything_was_killed_are_used_and_balance(
    simulated_spec: RolloutSpec, bound: int, steps: tuple[Step, ...]
) -> None:
    rollout = RolloutConfig(
        groups_per_iteration=6, samples_per_group=2, max_prompt_tokens=16, max_response_tokens=24, max_staleness=bound
    )
    killed = (*steps, Step(before_s=150.0, killed=True), Step(before_s=20.0, killed=True), Step(), Step())
    seen = run_course(simulated_spec, Course(rollout, FaultsConfig(), 1, 0, killed))
    assert seen.kills == 2
    assert seen.recovered > 0

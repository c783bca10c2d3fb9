"""The scheduler in virtual time, with samples that take as long as a test says. Batches of 4 groups of 2 samples."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from made_groups import prompt_of, sample_of

from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.data.buffer import Buffer
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.prompts.sources import RawPrompt, Stream
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.episode import SampleFailed
from rlscale.rollout.refill import Refill
from rlscale.rollout.scheduler import ATTEMPTS, Scheduler
from rlscale.serve.simulator.virtual_time import VirtualLoop

SAMPLES, GROUPS = 2, 4
Seconds = Callable[[int, int], float]
"""How long the sample at a place of a prompt's group is with an engine."""


class Numbers(Stream):
    """A thousand prompts."""

    def __init__(self) -> None:
        super().__init__(1000, shuffle=False, seed=0)

    def item(self, number: int, index: int) -> RawPrompt:
        return RawPrompt(index=index, id=str(index), prompt=str(index))


class AsTheyAre:
    """The encoder of prompts that need none."""

    dropped = 0
    limits = "nothing"

    def encode(self, raw: RawPrompt) -> Prompt:
        return prompt_of(raw.index)


class Bench:
    """A scheduler, and engines of `slots` slots whose samples have as many tokens as they take seconds, rounded up."""

    def __init__(self, seconds: Seconds, slots: int = 100, reward_s: float = 0.0, **rollout: Any) -> None:
        config = RolloutConfig(groups_per_iteration=GROUPS, samples_per_group=SAMPLES, **rollout)
        self.admission = Admission(slots)
        self.scheduler = Scheduler(
            config, PromptQueue(Numbers(), AsTheyAre()), Buffer(), Refill(lambda group: True, 0), self.admission
        )
        self.seconds, self.reward_s = seconds, reward_s
        self.played: list[tuple[int, int]] = []
        self.entered: list[tuple[int, int]] = []
        self.most_begun = 0
        self.failing: set[tuple[int, int]] = set()
        self.unjudged: set[int] = set()
        self._begun: dict[int, int] = {}

    async def play(self, prompt: Prompt, place: int, attempt: Attempt) -> Sample:
        self.played.append((prompt.index, place))
        async with self.admission.at(prompt.index, place):
            version = attempt.enter()
            self.entered.append((prompt.index, place))
            self._begun.setdefault(prompt.index, 0)
            self.most_begun = max(self.most_begun, len(self._begun))
            await asyncio.sleep(self.seconds(prompt.index, place))
        tokens = math.ceil(self.seconds(prompt.index, place))
        attempt.received(tokens)
        if (prompt.index, place) in self.failing:
            raise SampleFailed("rubbish", "request")
        attempt.turn_over()
        await asyncio.sleep(self.reward_s)
        self._begun[prompt.index] += 1
        if self._begun[prompt.index] == SAMPLES:
            del self._begun[prompt.index]
        return sample_of(prompt.index, place, [version] * tokens)

    async def judge(self, group: Group) -> None:
        if group.prompt.index in self.unjudged:
            raise SampleFailed("nobody can tell")

    async def iterate(self, batches: int, first: int = 0, train_s: float = 1.0) -> list[list[int]]:
        """The prompts of so many batches, each of which is trained on for some seconds. The accounts balance."""
        taken = []
        for version in range(first, first + batches):
            self.scheduler.resume(version)
            taken.append(indices(await self.scheduler.next_batch()))
            self.scheduler.counters()
            await asyncio.sleep(train_s)
        return taken


def indices(groups: list[Group]) -> list[int]:
    return [group.prompt.index for group in groups]


def run(bench: Callable[[], Bench], scenario: Callable[[Bench], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        made = bench()
        made.scheduler.start(made.play, made.judge)
        try:
            return await scenario(made)
        finally:
            await made.scheduler.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def even(index: int, place: int) -> float:
    return 1.0


def uneven(index: int, place: int) -> float:
    """From 1 to 40 seconds, most of them short."""
    return 1.0 + 39.0 * (((index * 7 + place * 3) % 20) / 19) ** 4


def test_the_oldest_prompt_goes_first() -> None:
    async def scenario(bench: Bench) -> list[tuple[int, int]]:
        await bench.iterate(6)
        return bench.entered

    entered = run(lambda: Bench(uneven, slots=3, max_staleness=4), scenario)
    assert len(entered) > 6 * GROUPS
    # In a group, its places in their order; of two groups, the later one enters when the earlier one has no place left.
    assert entered == sorted(entered)


def test_groups_are_started_when_a_slot_is_free_and_not_earlier() -> None:
    async def scenario(bench: Bench) -> int:
        await bench.iterate(5)
        return bench.most_begun

    # Of 6 slots 5 may be held by one sample each whose sibling is finished.
    assert run(lambda: Bench(uneven, slots=6, max_staleness=4), scenario) <= 6


def test_of_the_groups_that_wait_only_those_begin_whose_turn_comes_soon() -> None:
    async def scenario(bench: Bench) -> tuple[list[int], int, list[int]]:
        bench.scheduler.resume(0)
        begun = []
        for _ in range(GROUPS):
            await asyncio.sleep(0.5)
            begun.append(len(bench.played))
            await asyncio.sleep(1.5)
        drawn = bench.scheduler.counters()["prompts/drawn"]
        return begun, drawn, indices(await bench.scheduler.next_batch())

    # A slot takes a sample in every second: while the two samples of a group are made, the next group begins.
    assert run(lambda: Bench(even, slots=1), scenario) == ([2, 4, 6, 8], GROUPS, [0, 1, 2, 3])


def test_groups_that_wait_do_not_wait_for_a_source_that_is_slow_to_give_more() -> None:
    async def scenario(bench: Bench) -> list[tuple[int, int]]:
        give, given = bench.scheduler._next, []

        async def slow(n: int) -> Any:
            if given:
                await asyncio.Event().wait()
            given.append(n)
            return await give(GROUPS - 1)

        bench.scheduler._next = slow  # type: ignore[method-assign]  # a source that gives three prompts and then nothing
        bench.scheduler.resume(0)
        await asyncio.sleep(20.0)
        return bench.entered

    entered = run(lambda: Bench(even, slots=1), scenario)
    assert entered == [(index, place) for index in range(GROUPS - 1) for place in range(SAMPLES)]


@pytest.mark.parametrize("stale", [Stale.mask, Stale.withhold, Stale.wait])
@pytest.mark.parametrize("over_sampling", [1.0, 2.0])
def test_a_slow_group_is_finished_and_trained_however_long_it_takes(stale: Stale, over_sampling: float) -> None:
    def slow(index: int, place: int) -> float:
        return 30.0 if index == 2 else 1.0

    async def scenario(bench: Bench) -> list[list[int]]:
        return await bench.iterate(40, train_s=1.0)

    taken = run(lambda: Bench(slow, max_staleness=8, stale=stale, over_sampling=over_sampling), scenario)
    used = [index for batch in taken for index in batch]
    assert len(used) == len(set(used)) == 40 * GROUPS
    assert 2 in used
    assert 2 not in taken[0] or over_sampling > 1  # over-sampling begins with one batch, which waits for it


def test_drop_throws_the_slow_group_away_and_says_so() -> None:
    def slow(index: int, place: int) -> float:
        return 30.0 if index == 2 else 1.0

    async def scenario(bench: Bench) -> tuple[list[list[int]], dict[str, int], dict[str, float]]:
        taken = await bench.iterate(40)
        return taken, bench.scheduler.counters(), bench.scheduler.measures()

    taken, counters, measures = run(lambda: Bench(slow, max_staleness=2, stale=Stale.drop), scenario)
    assert not any(2 in batch for batch in taken)
    assert (counters["prompts/stale"], counters["tokens/discarded_stale"]) == (1, 60)
    assert measures["length_ratio"] == 1.0  # it was started more than ten batches ago


def test_what_is_finished_in_the_same_tick_as_the_batch_goes_to_the_buffer() -> None:
    async def scenario(bench: Bench) -> tuple[list[list[int]], float]:
        bench.scheduler.resume(0)
        taken = [indices(await bench.scheduler.next_batch())]
        bench.scheduler.resume(1)
        taken.append(indices(await bench.scheduler.next_batch()))
        return taken, asyncio.get_running_loop().time()

    # Two batches' worth are begun at once and are all finished after a second.
    assert run(lambda: Bench(even, max_staleness=1), scenario) == ([[0, 1, 2, 3], [4, 5, 6, 7]], 1.0)


def test_over_sampling_begins_after_the_first_batch() -> None:
    async def scenario(bench: Bench) -> list[int]:
        drawn = []
        for version in range(5):
            bench.scheduler.resume(version)
            await asyncio.sleep(0.5)
            counters = bench.scheduler.counters()
            drawn.append(counters["prompts/under_way"] + counters["prompts/ready"])
            await bench.scheduler.next_batch()
        return drawn

    assert run(lambda: Bench(even, max_staleness=8, over_sampling=2.0), scenario) == [4, 5, 6, 7, 8]


def test_tokens_over_the_bound_are_masked_and_counted() -> None:
    async def scenario(bench: Bench) -> tuple[dict[str, int], list[list[int]], dict[str, float]]:
        taken = await bench.iterate(8, train_s=1.0)
        return bench.scheduler.counters(), taken, bench.scheduler.measures()

    def slow(index: int, place: int) -> float:
        return 5.5 if index == 0 else 1.0

    counters, taken, _ = run(lambda: Bench(slow, slots=100, max_staleness=2, over_sampling=1.0), scenario)
    (late,) = [version for version, batch in enumerate(taken) if 0 in batch]
    assert late > 2
    assert counters["tokens/masked"] == 12
    assert counters["tokens/trained"] == (8 * GROUPS - 1) * SAMPLES


def test_a_place_that_fails_again_and_again_gives_its_group_up() -> None:
    async def scenario(bench: Bench) -> tuple[list[list[int]], dict[str, int], int]:
        bench.failing.add((1, 0))
        taken = await bench.iterate(6)
        return taken, bench.scheduler.counters(), bench.entered.count((1, 0))

    taken, counters, attempts = run(lambda: Bench(even, max_staleness=1), scenario)
    assert attempts == ATTEMPTS
    assert not any(1 in batch for batch in taken)
    assert counters["prompts/failed_request"] == 1
    assert counters["tokens/discarded_failed_request"] == ATTEMPTS + 1  # the other place's token too


def test_a_group_that_cannot_be_judged_together_is_given_up() -> None:
    async def scenario(bench: Bench) -> tuple[list[list[int]], dict[str, int]]:
        bench.unjudged.add(1)
        return await bench.iterate(3), bench.scheduler.counters()

    taken, counters = run(lambda: Bench(even, max_staleness=1), scenario)
    assert not any(1 in batch for batch in taken)
    assert counters["prompts/failed_reward"] == 1
    assert counters["tokens/discarded_failed_reward"] == SAMPLES


def test_a_late_reward_holds_no_slot() -> None:
    async def scenario(bench: Bench) -> float:
        await bench.iterate(5, train_s=0.0)
        return asyncio.get_running_loop().time()

    # 2 slots make a sample each in every second, so a batch takes four; rewards of 20 seconds come on top once.
    took = run(lambda: Bench(even, slots=2, reward_s=20.0, max_staleness=8), scenario)
    assert took <= 5 * 4 + 20


def test_another_limit_starts_groups_at_once() -> None:
    async def scenario(bench: Bench) -> list[int]:
        bench.scheduler.resume(0)
        begun = []
        for limit in (2, 7):
            bench.admission.limit = limit
            await asyncio.sleep(0.1)
            begun.append(bench.most_begun)
        return begun

    assert run(lambda: Bench(even, slots=2, max_staleness=4), scenario) == [1, 4]


@pytest.mark.parametrize("tick", np.linspace(0.3, 23.3, 24))
@pytest.mark.parametrize("stale", [Stale.mask, Stale.wait])
def test_saved_and_restored_at_any_moment_every_prompt_comes_once(tick: float, stale: Stale) -> None:
    options = {"slots": 5, "reward_s": 0.7, "max_staleness": 3, "stale": stale}

    async def before(bench: Bench) -> tuple[bytes, list[list[int]]]:
        taken: list[list[int]] = []

        async def go_on() -> None:
            for version in range(100):
                bench.scheduler.resume(version)
                taken.append(indices(await bench.scheduler.next_batch()))
                await asyncio.sleep(1.0)

        loop = asyncio.create_task(go_on())
        await asyncio.sleep(tick)
        state = pickle.dumps(await bench.scheduler.state_dict(trained=True))
        loop.cancel()
        return state, taken

    async def after(bench: Bench) -> tuple[list[list[int]], dict[str, int]]:
        bench.scheduler.load_state_dict(pickle.loads(state))
        return await bench.iterate(6, first=version), bench.scheduler.counters()

    state, first = run(lambda: Bench(uneven, **options), before)
    version = pickle.loads(state)["batches"]
    second, counters = run(lambda: Bench(uneven, **options), after)
    used = [index for batch in first + second for index in batch]
    assert len(used) == len(set(used))
    assert counters["prompts/trained"] == (version + 6) * GROUPS
    # Whatever was drawn before the last one that was trained on is trained on, or there.
    assert counters["prompts/drawn"] == counters["prompts/trained"] + sum(
        counters[f"prompts/{where}"] for where in ("ready", "under_way")
    )

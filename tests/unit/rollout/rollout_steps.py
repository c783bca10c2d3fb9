"""A training loop without training, and what the tests of the service read off its batches."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from fake_engine import FakeEngine

from rlscale.data.sample import Group
from rlscale.rollout.service import RolloutService


def indices(groups: list[Group]) -> list[int]:
    return [group.prompt.index for group in groups]


def tokens(groups: list[Group]) -> list[list[int]]:
    return [sample.tokens.tolist() for group in groups for sample in group.samples]


async def iterate(engine: FakeEngine, service: RolloutService, iterations: int, first: int = 0) -> list[list[Group]]:
    """The batches of a training loop whose training takes no time."""
    batches = []
    await service.resume(first)
    for version in range(first, first + iterations):
        batches.append(await service.next_batch())
        await service.pause()
        engine.weights = version + 1
        await service.resume(version + 1)
    return batches


def shuffled(seed: int) -> Callable[[dict[str, Any]], float]:
    stream = random.Random(seed)
    return lambda body: stream.random() * 0.02

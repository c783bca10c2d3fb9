"""What a run of one turn per sample trains on, to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_engine import FakeEngine, encoded, experts_by_place

from rlscale.config.schema.algo_config import OverlongConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.sample import Group
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]


def digest(batches: list[list[Group]]) -> str:
    """A hash of every column of every batch, with the samples' texts, rewards and infos."""
    found = hashlib.sha256()
    for groups in batches:
        batch = Batch.from_groups(groups, steps=2)
        for name in sorted(batch.columns):
            values = batch.columns[name]
            found.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
        for group in groups:
            told = [[s.index, s.text, s.raw_text, s.finish_reason, s.reward, s.info] for s in group.samples]
            found.update(json.dumps([group.prompt.index, group.prompt.text, told], sort_keys=True).encode())
    return found.hexdigest()


async def iterate(engine: FakeEngine, service: RolloutService) -> list[list[Group]]:
    batches = []
    await service.resume(0)
    for version in range(3):
        batches.append(await service.next_batch())
        await service.pause()
        engine.weights = version + 1
        await service.resume(version + 1)
    return batches


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "4b909d4536dcadb3d178ed0114d70abcd5b789f883bf495ed17e394860b94080"),
        (
            {"overlong": OverlongConfig(penalty=0.5, cache_tokens=3)},
            "0038d4de68d999837d954709ce88c49e6576133bf6ab4a05198aa5ff1ab04982",
        ),
        (
            {"experts": ExpertSizes(layers=3, top_k=2, experts=6)},
            "5bfe3822fde07cdf820a34e3a6b8f150c19c4152ee34948a7b3d0a484c0f7e8f",
        ),
    ],
    ids=["plain", "overlong", "experts"],
)
def test_batches_are_those_that_were_stored(run: Run, changed: dict[str, Any], expected: str) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[list[Group]]:
        engine.routed = lambda tokens: encoded(experts_by_place(tokens))
        return await iterate(engine, service)

    # Stored before episodes had environments: a run of one turn must go on training on the very same numbers.
    assert digest(run(scenario, **changed)) == expected

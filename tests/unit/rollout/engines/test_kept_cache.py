"""Engines that keep the cache of old weights: prefixes are apart by version, and what is approximate is told."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine

from rlscale.config.derived.paused_flush import MARK
from rlscale.data.batches.fields import APPROXIMATE
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.kept_cache import KeptCache, keep_their_cache
from rlscale.rollout.engines.sampling_params import SamplingParams

PROMPT = np.array([5, 9, 4], np.int32)


def test_a_request_looks_for_prefixes_of_its_version_alone_and_later_tokens_are_approximate() -> None:
    async def main() -> tuple[list[Any], list[Generation]]:
        async with FakeEngine() as engine:
            client = EngineClient(engine.url, "secret")
            client.kept_cache = KeptCache(3)
            found = []
            for engine.synced in ("3", "4"):  # the second is answered with weights that came after it was sent
                found.append(await client.generate(PROMPT, SamplingParams(60), 1))
            await client.close()
            return [request["extra_key"] for request in engine.requests], found

    keys, (same, later) = asyncio.run(main())
    assert keys[0] == keys[1]
    assert keys[0].endswith("-3")
    assert not same.columns[APPROXIMATE].any()
    assert later.columns[APPROXIMATE].all()
    assert len(later.columns[APPROXIMATE]) == len(later.tokens)


def test_two_runs_and_two_versions_find_no_prefixes_of_one_another() -> None:
    one, other = KeptCache(3), KeptCache(3)
    found: list[dict[str, Any]] = [{}, {}, {}]
    assert (one.begin(found[0]), other.begin(found[1])) == (3, 3)
    one.version = 4
    assert one.begin(found[2]) == 4
    assert len({body["extra_key"] for body in found}) == 3


def test_tokens_are_approximate_from_the_first_sync_of_their_request_on() -> None:
    versions = np.array([3, 3, 4, 5], np.int32)
    found = Generation(np.arange(4, dtype=np.int32), np.zeros(4, np.float32), "stop", versions)
    marked = KeptCache(9).marked(found, 3)
    assert marked.columns[APPROXIMATE].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("infos", "keep"),
    [
        ([{"internal_states": [{MARK: True}]}], False),
        ([{"internal_states": [{MARK: True}]}, {"internal_states": [{}]}], True),
        ([{}], True),
    ],
)
def test_engines_keep_their_cache_unless_all_say_that_they_empty_it(infos: list[Any], keep: bool) -> None:
    class Asked:
        async def engines(self) -> list[str]:
            return [str(number) for number in range(len(infos))]

        async def ask_at(self, url: str, path: str) -> Any:
            assert path == "/server_info"
            return infos[int(url)]

    assert asyncio.run(keep_their_cache(Asked())) == keep  # type: ignore[arg-type]  # the two methods that it calls

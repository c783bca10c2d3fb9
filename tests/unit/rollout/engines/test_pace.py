"""Requests that wait for their turn do not keep in step with each other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscale.config.derived.needed_weights import NEWEST_HEADER, OLDEST_HEADER, NeededWeights
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.simulator.virtual_time import VirtualLoop

ANSWER = {
    "output_ids": [3],
    "meta_info": {
        "finish_reason": {"type": "length"},
        "output_token_logprobs": [[-1.0, 3, None]],
        "weight_versions": [{"version": "1", "start": 0, "end": 1}],
    },
}


class InTurns:
    """A router over two engines, of versions 2 and 1, that asks them in turns and tries no other."""

    def __init__(self, api_key: str | None, timeout_s: float, limit: int) -> None:
        self.asked = 0

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        version = 2 - self.asked % 2
        self.asked += 1
        if int(headers[OLDEST_HEADER]) <= version <= int(headers.get(NEWEST_HEADER, version)):
            return 200, ANSWER
        return 503, "the engine holds other weights"

    async def get(self, url: str) -> tuple[int, Any]:
        return 200, {"workers": []}

    async def close(self) -> None: ...


def test_two_requests_that_want_different_weights_do_not_find_the_wrong_engine_for_ever() -> None:
    async def main() -> None:
        client = EngineClient("http://router", timeout_s=60.0, connect=InTurns)
        wanted = [NeededWeights(1, exactly=True), NeededWeights(2)]
        asked = [client.generate(np.array([5], np.int32), SamplingParams(1), 0, weights=weights) for weights in wanted]
        assert [len(one.tokens) for one in await asyncio.gather(*asked)] == [1, 1]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

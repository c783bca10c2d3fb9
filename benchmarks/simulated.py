"""A client of a simulated engine of the same process, whose answers take no time: for what is built around engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.client import EngineClient
from rlscale.serve.simulator.simulated_engine import SimulatedEngine


class InProcess:
    """A connection to a simulated engine of the same process."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """See rlscale.rollout.engines.connection.Connection."""
        return await self._engine.call("/" + url.rpartition("/")[2], body)

    async def get(self, url: str) -> tuple[int, Any]:
        """See rlscale.rollout.engines.connection.Connection."""
        return 404, ""

    async def close(self) -> None:
        """See rlscale.rollout.engines.connection.Connection."""


def simulated_client(slots: int, length: int, vocabulary: int) -> EngineClient:
    """The client of an engine that answers each of `slots` requests at a time by `length` tokens below `vocabulary`."""
    lengths = LengthsConfig(law=LengthLaw.constant, median=length)
    engine = SimulatedEngine(
        SimulatedEngineConfig(
            decode_s=1e-6,
            prefill_tokens_per_s=1e9,
            slots=slots,
            cache_tokens=10**9,
            vocabulary=vocabulary,
            lengths=lengths,
        )
    )
    return EngineClient("http://engine", connect=lambda *settings: InProcess(engine))

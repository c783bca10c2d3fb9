"""The program of a simulated engine, whose order arrives as JSON on standard input: see `serve`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rlscale.config.schema.simulator_config import LengthsConfig, SimulatedEngineConfig
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import Answer, SimulatedEngine


class _OfModel(SimulatedEngine):
    """Says of which model's folder it is, as whoever started it asks."""

    def __init__(self, config: SimulatedEngineConfig, model: str) -> None:
        super().__init__(config)
        self._model = model

    async def _info(self, body: Any) -> Answer:
        status, told = await super()._info(body)
        return status, {**told, "model_path": self._model}


async def serve(
    model: str, host: str, port: int, api_key: str | None, median: float, decode_s: float, slots: int
) -> None:
    """Answer at that address until the process is ended."""
    config = SimulatedEngineConfig(decode_s=decode_s, slots=slots, lengths=LengthsConfig(median=median))
    print(f"a simulated engine in the place of one of {model} listens on port {port}", flush=True)
    async with SimulatedEndpoint(_OfModel(config, model), api_key, host, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.stdin.read())))

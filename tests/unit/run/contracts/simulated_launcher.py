"""A launcher whose engines are simulated, each in a process of its own; run as a program it is such an engine."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine


class OfModel(SimulatedEngine):
    """Says of which model it is."""

    def __init__(self, model: str) -> None:
        super().__init__(SimulatedEngineConfig(decode_s=0.001))
        self._model = model

    async def _info(self, body: Any) -> tuple[int, Any]:
        status, info = await super()._info(body)
        return status, {**info, "model_path": self._model}


async def serve(port: int, api_key: str | None, model: str) -> None:
    """Until the process is ended."""
    print(f"a simulated engine of {model} on port {port}", flush=True)
    async with SimulatedEndpoint(OfModel(model), api_key, port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.stdin.read())))

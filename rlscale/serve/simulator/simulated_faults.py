"""What goes wrong with a request, drawn from a seed."""

from __future__ import annotations

from enum import Enum

from rlscale.config.schema.simulator_config import FaultsConfig
from rlscale.serve.simulator.token_stream import uniform


class Fault(Enum):
    """What befalls a request; see FaultsConfig."""

    lost = "lost"
    stalled = "stalled"
    duplicated = "duplicated"
    rubbish = "rubbish"
    crashed = "crashed"


class Faults:
    """The faults of one engine, one draw per request in the order of their arrival."""

    def __init__(self, config: FaultsConfig, seed: int, engine: int) -> None:
        self._shares = [(fault, share) for fault in Fault if (share := float(getattr(config, fault.value)))]
        self._seed, self._engine = seed, engine
        self._drawn = 0

    def draw(self) -> Fault | None:
        """What befalls the next request."""
        if not self._shares:
            return None
        self._drawn += 1
        left = uniform(6, self._seed, self._engine, self._drawn)
        for fault, share in self._shares:
            if left < share:
                return fault
            left -= share
        return None

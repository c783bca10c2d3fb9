"""What one simulated iteration came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from rlscale.config.schema import Config
from rlscale.config.schema.simulator_config import SimulatedEngineConfig, SimulationConfig
from rlscale.data.batches.fields import STALE
from rlscale.data.sample import Group, Sample
from rlscale.serve.simulator.simulated_fleet import SimulatedFleet


@dataclass(frozen=True)
class EngineTotals:
    """Sums over all engines since the beginning."""

    busy_s: float = 0.0
    """Engine seconds in which a request ran."""
    slot_s: float = 0.0
    """Slot seconds in which one did."""
    tokens: int = 0
    """Tokens generated."""
    preemptions: int = 0
    restarts: int = 0

    @staticmethod
    def of(fleet: SimulatedFleet) -> EngineTotals:
        """As they stand now."""
        engines = fleet.engines.values()
        return EngineTotals(
            sum(engine.batch.busy_s for engine in engines),
            sum(engine.batch.slot_s for engine in engines),
            sum(engine.tokens for engine in engines),
            sum(engine.preemptions for engine in engines),
            sum(engine.restarts for engine in engines),
        )

    def __sub__(self, other: EngineTotals) -> EngineTotals:
        return EngineTotals(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def __add__(self, other: EngineTotals) -> EngineTotals:
        return EngineTotals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass
class SimulatedIteration:
    """One iteration; times are virtual seconds."""

    seconds: float = 0.0
    wait_s: float = 0.0
    """The trainer waited for groups, or for requests to end."""
    train_s: float = 0.0
    settled: int = 0
    """Samples of groups that were trained on, thrown away or given up by its end, since the beginning."""
    samples: int = 0
    tokens: int = 0
    """Generated tokens of the batch."""
    masked: int = 0
    """Those of them that the loss leaves out, because they are over the bound."""
    staleness: Counter[int] = field(default_factory=Counter)
    """The trained ones of them by their staleness."""
    engines: EngineTotals = field(default_factory=EngineTotals)

    def add(self, groups: Sequence[Group], version: int) -> None:
        """The batch that is trained on at a weight version."""
        samples = [sample for group in groups for sample in group.samples]
        self.samples = len(samples)
        self.tokens = sum(sample.response_length for sample in samples)
        versions = np.concatenate([sample.versions[_read(sample)] for sample in samples])
        self.masked = self.tokens - len(versions)
        ages, counts = np.unique(version - versions, return_counts=True)
        self.staleness.update(dict(zip(ages.tolist(), counts.tolist(), strict=True)))


def _read(sample: Sample) -> NDArray[np.bool_]:
    """Which tokens the loss reads, bool [tokens]."""
    stale = sample.columns.get(STALE)
    read: NDArray[np.bool_] = sample.loss_mask if stale is None else sample.loss_mask & ~stale
    return read


def step_s(engine: SimulatedEngineConfig) -> float:
    """Seconds of a decoding step with every slot taken."""
    return engine.decode_s * (1.0 + engine.slots / engine.half_batch)


def ideal_generation_s(config: Config, simulation: SimulationConfig, fleet: SimulatedFleet) -> float:
    """Seconds in which engines whose slots are all taken, all the time, generate one batch."""
    rollout, engine = config.rollout, simulation.engine
    tokens = rollout.groups_per_iteration * rollout.samples_per_group * fleet.lengths.mean(rollout.max_response_tokens)
    return tokens * step_s(engine) / (len(fleet.engines) * engine.slots)

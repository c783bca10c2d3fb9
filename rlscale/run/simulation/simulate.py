"""One simulation from its configuration to what it came to."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.simulator_config import SimulationConfig
from rlscale.data.target import build_target, instantiate
from rlscale.rollout.service_protocol import Service
from rlscale.run.simulation.overtaking import length_ratio
from rlscale.run.simulation.simulated_iteration import EngineTotals, SimulatedIteration, ideal_generation_s
from rlscale.run.simulation.simulated_session import SimulatedSession
from rlscale.run.simulation.simulated_workload import rollout_spec
from rlscale.run.verbs import Loop
from rlscale.serve.router import DEFAULTS
from rlscale.serve.simulator.simulated_fleet import SimulatedFleet
from rlscale.serve.simulator.virtual_time import NothingHappens, VirtualLoop


@dataclass(frozen=True)
class Simulated:
    """What a simulation came to, over the iterations that count (those that warm up do not)."""

    iterations: int
    engines: int
    slots: int
    iteration_s: float
    """Virtual seconds of an iteration, on average."""
    first_s: float
    """Those of the very first."""
    ideal_s: float
    """Seconds in which engines that are always full generate one batch."""
    train_s: float
    trainer_idle: float
    """Share of the time in which the trainer waited."""
    engines_idle: float
    """Share of the time in which an engine had nothing to do."""
    slots_taken: float
    """Share of the slots that were taken, on average over the time."""
    staleness: Counter[int]
    """Trained tokens by staleness."""
    length_ratio: float
    """Mean length of what was trained over that of what would have been, had all responses taken equally long."""
    length_error: float
    """Its standard error, by what is overtaken at the beginning and at the end (`overtaking.length_ratio`)."""
    lost: float
    """Share of all generated tokens, from the very first, that no batch took and that are not held or in flight."""
    masked: float
    """Share of the batches' tokens that are over the bound and not trained."""
    preemptions: int
    restarts: int
    virtual_s: float
    real_s: float

    @property
    def samples_per_s(self) -> float:
        """Samples that all the code handled in a real second."""
        return self.samples / self.real_s

    samples: int = 0


def simulate(config: Config, simulation: SimulationConfig) -> Simulated:
    """Run the loop of a configuration on simulated engines. UserError where it cannot be simulated."""
    if Needs.of(config).supervised:
        raise UserError(f"recipe={config.run.recipe}: is trained on data alone; there is no rollout to simulate")
    if config.rollout.replay is not None:
        raise UserError(
            f"rollout.replay={config.rollout.replay}: a replay generates nothing; there is no rollout to simulate"
        )
    if config.rollout.disaggregated:
        raise UserError(
            "rollout.engine_groups: simulated engines answer whole requests, and none hands a prompt over; give all "
            "groups role=regular"
        )
    fleet_size = simulation.engines or Sizes.of(config).engines
    loop: Loop = build_target(config.loop, "loop", call_arguments=1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="simulated") as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        clock = runner.get_loop()  # not runner.run, which writes out every result when it takes over Ctrl-C
        spec = rollout_spec(config, simulation, fleet_size, Path(folder))
        policy = str(config.rollout.router.get("policy", DEFAULTS["policy"]))
        fleet = clock.run_until_complete(_made(simulation, fleet_size, policy))
        node = {TARGET: config.rollout._target_, **config.rollout.arguments, "connect": fleet.connect}
        service: Service = clock.run_until_complete(_built(node, spec))
        session = SimulatedSession(config, simulation, clock, service, fleet)
        try:
            with _no_search_for_garbage():
                loop(session)
                held = session.held_tokens()
                flying = clock.run_until_complete(_in_flight(fleet))
        except NothingHappens as error:
            raise UserError(f"the simulation stands still: {error}") from error
        session.close()
        virtual_s = clock.time()
        ideal = ideal_generation_s(config, simulation, fleet)
    begun, real_s = fleet.started.lengths, time.perf_counter() - began
    return _summed(session.told, simulation, fleet_size, ideal, held + flying, begun, virtual_s, real_s)


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """A simulation leaves next to none that refers to itself, and a look takes longer the more responses it holds."""
    thresholds, was_on = gc.get_threshold(), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()  # what the service set apart
        gc.set_threshold(*thresholds)
        if was_on:
            gc.enable()


async def _made(simulation: SimulationConfig, engines: int, policy: str) -> SimulatedFleet:
    return SimulatedFleet(simulation.engine, engines, policy)


async def _built(node: dict[str, object], spec: object) -> Service:
    return cast(Service, instantiate(node, "rollout", spec))


async def _in_flight(fleet: SimulatedFleet) -> int:
    """Generated tokens of requests that still run or wait."""
    return sum(engine.in_flight for engine in fleet.engines.values())


def _summed(
    told: list[SimulatedIteration],
    simulation: SimulationConfig,
    engines: int,
    ideal: float,
    held: int,
    begun: Sequence[int],
    virtual_s: float,
    real_s: float,
) -> Simulated:
    counted = told[simulation.warm_up :]
    seconds = sum(one.seconds for one in counted)
    used = sum((one.engines for one in counted), EngineTotals())
    everything = sum((one.engines for one in told), EngineTotals())
    trained = sum(one.tokens for one in counted)
    ratio, error = length_ratio(told, simulation.warm_up, begun)
    taken = sum(one.tokens for one in told)
    slots = simulation.engine.slots
    return Simulated(
        iterations=len(counted),
        engines=engines,
        slots=slots,
        iteration_s=seconds / len(counted),
        first_s=told[0].seconds,
        ideal_s=ideal,
        train_s=sum(one.train_s for one in counted) / len(counted),
        trainer_idle=sum(one.wait_s for one in counted) / seconds if seconds else 0.0,
        engines_idle=1 - used.busy_s / (engines * seconds) if seconds else 0.0,
        slots_taken=used.slot_s / (engines * slots * seconds) if seconds else 0.0,
        staleness=sum((one.staleness for one in counted), Counter()),
        length_ratio=ratio,
        length_error=error,
        lost=max(0.0, 1 - (taken + held) / everything.tokens),
        masked=sum(one.masked for one in counted) / trained,
        preemptions=everything.preemptions,
        restarts=everything.restarts,
        virtual_s=virtual_s,
        real_s=real_s,
        samples=sum(one.samples for one in told),
    )

"""The verbs of a run's loop on simulated engines: the same story, told to a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar, cast

from rlscale.config.schema import Config
from rlscale.config.schema.simulator_config import SimulationConfig
from rlscale.data.sample import Group
from rlscale.rollout.service_protocol import DrainsEngines, Service
from rlscale.run.processes.placement import shares_devices
from rlscale.run.sides.sync_waves import waves
from rlscale.run.simulation.simulated_iteration import EngineTotals, SimulatedIteration, ideal_generation_s
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet

T = TypeVar("T")

_LOOK_EVERY_S = 1.0
"""How often dead engines are looked for, as in a run."""


class SimulatedSession:
    """What a loop of `rlscale.run.loops` is given in place of a session. `told` is filled, an entry per iteration."""

    def __init__(
        self,
        config: Config,
        simulation: SimulationConfig,
        loop: asyncio.AbstractEventLoop,
        service: Service,
        fleet: SimulatedFleet,
    ) -> None:
        self.config = config
        self.told: list[SimulatedIteration] = []
        self._simulation, self._loop, self._service, self._fleet = simulation, loop, service, fleet
        self._version = 0
        self._now = SimulatedIteration()
        self._began = 0.0
        self._before = EngineTotals()

    def begin(self) -> None:
        """Give the engines the first weights and let them generate."""
        self._run(self._start())

    def iterations(self) -> Iterator[int]:
        """As many as are simulated, those that warm up first."""
        yield from range(self._simulation.warm_up + self._simulation.iterations)

    def collect(self) -> list[Group]:
        """Wait for the groups of the next iteration."""
        return self._waited(self._service.next_batch())

    def train(self, groups: Sequence[Group]) -> None:
        """Let the time pass that training takes."""
        now = self._now
        now.add(groups, self._version)
        now.train_s = self._training_s(now.tokens)
        self._run(asyncio.sleep(now.train_s))

    def trainer_takes_devices(self) -> None:
        """Where the devices are shared, generation stops."""
        if shares_devices(self.config.cluster):
            self.pause_generation()

    def engines_take_devices(self) -> None:
        """They take their cache back at once."""

    def pause_generation(self) -> None:
        """No request is under way when this returns; with waves each has its own time for that."""
        if self._in_waves:
            return
        self._waited(self._service.pause())

    def sync(self) -> None:
        """The engines get the next weight version."""
        self._version += 1
        if self._in_waves:
            self._run(self._give_in_waves())
        else:
            self._run(self._give_weights(self._fleet.urls))

    def record(self) -> None:
        """The iteration is over."""
        self._run(self._note())

    def go_on(self) -> None:
        """The engines generate with the weights that they have."""
        self._run(self._service.resume(self._version))

    def end(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """End the service."""
        self._run(self._service.close())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def _waited(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives, while the trainer waits."""
        before = self._time()
        found = self._run(work)
        self._now.wait_s += self._time() - before
        return found

    def _time(self) -> float:
        return self._loop.time()

    def _training_s(self, tokens: int) -> float:
        simulation = self._simulation
        if simulation.training_s is not None:
            return simulation.training_s
        if simulation.training_tokens_per_s is not None:
            return tokens / simulation.training_tokens_per_s
        return simulation.training_share * ideal_generation_s(self.config, simulation, self._fleet)

    async def _start(self) -> None:
        await self._service.start(ROUTER_URL)
        await self._give_weights(self._fleet.urls)
        if self._simulation.engine.faults.crashed:
            self._mending = asyncio.create_task(self._mend())
        await self._service.resume(self._version)

    @property
    def _in_waves(self) -> bool:
        most = self.config.weights.max_engines_at_once
        return most is not None and most < len(self._fleet.urls)

    async def _give_in_waves(self) -> None:
        """As SyncWaves does: the router does not know those that are in the middle of it."""
        fleet, service = self._fleet, cast(DrainsEngines, self._service)
        for wave in waves(fleet.urls, self.config.weights.max_engines_at_once or 0):
            fleet.route([url for url in fleet.workers if url not in wave])
            before = self._time()
            await service.drain(wave)
            self._now.wait_s += self._time() - before
            await self._give_weights(wave)
            fleet.route([url for url in fleet.urls if url in wave or url in fleet.workers])
        await service.drain(())

    async def _give_weights(self, urls: Sequence[str]) -> None:
        await asyncio.sleep(self._simulation.sync_s)
        body = {
            "serialized_named_tensors": [str(self._version)],
            "weight_version": str(self._version),
            "flush_cache": True,
        }
        path = "/update_weights_from_tensor"
        alive = [url for url in urls if not self._fleet.engines[url].down]
        keep = self.config.rollout.on_sync.pause or ("retract" if self._in_waves else None)

        async def give(url: str) -> None:
            if keep is not None:  # as EngineReceiver does
                await self._fleet.post(url + "/pause_generation", {"mode": keep})
            await self._fleet.post(url + path, body)
            if keep is not None:
                await self._fleet.post(url + "/continue_generation", {})

        await asyncio.gather(*(give(url) for url in alive))

    async def _mend(self) -> None:
        """Engines that come back get the weights before they get requests."""
        known = dict.fromkeys(self._fleet.urls, 0)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for url, engine in self._fleet.engines.items():
                if engine.restarts > known[url]:
                    self._fleet.route([other for other in self._fleet.workers if other != url])
                    if not engine.down:
                        known[url] = engine.restarts
                        await self._give_weights([url])
                        self._fleet.route([*self._fleet.workers, url])

    async def _note(self) -> None:
        """Close the books of this iteration."""
        now, totals = self._now, EngineTotals.of(self._fleet)
        now.seconds = self._time() - self._began
        now.engines = totals - self._before
        now.settled = await self._settled()
        self.told.append(now)
        self._now, self._began, self._before = SimulatedIteration(), self._time(), totals

    async def _settled(self) -> int:
        """Samples of the groups whose fate is known."""
        counters = (await self._service.stats()).counters
        left = counters["prompts/ready"] + counters["prompts/under_way"]
        return (counters["prompts/drawn"] - left) * self.config.rollout.samples_per_group

    def held_tokens(self) -> int:
        """Generated tokens that wait in the buffer, or belong to groups under way."""
        counters = self._run(self._service.stats()).counters
        return counters["tokens/ready"] + counters["tokens/under_way"]

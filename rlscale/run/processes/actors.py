"""The Ray actors of a run: trainer ranks, the rollout service, and one launcher per machine that supervises engines.

Each is a thin wrapper around a plain class of another package, so that those stay free of Ray. Imports that are slow
or must come after the platform's adaptation happen inside the actors.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlscale.config.errors import UserError
from rlscale.platform.ports import free_port
from rlscale.run.processes.actor import Actor
from rlscale.run.processes.printed_errors import prints_errors

if TYPE_CHECKING:  # imported late, see LauncherActor
    from rlscale.serve.supervisor import Supervisor
_LANE_NAMES = {"send_weights": "sync", "begin_save": "checkpoint"}
"""What calls of a trainer are called in the lane of its rank; other ones have no place there."""


@prints_errors
class TrainerActor(Actor):
    """One trainer rank."""

    def __init__(self, log: str, rank: int, world_size: int, local_rank: int, threads: int) -> None:
        self._logs_to(log)
        self._rank, self._world_size, self._local_rank, self._threads = rank, world_size, local_rank, threads
        self._trainer: Any = None
        self._busy: list[tuple[str, float, float]] = []

    def preload(self, cpu: bool, trainer: str) -> None:
        """Import the class of the trainer and with it the slow packages, so that `start` does not wait for them."""
        from rlscale.config.schema.cluster_config import Device
        from rlscale.data.target import import_target
        from rlscale.platform.device import Platform

        Platform.of(Device.cpu if cpu else Device.cuda, self._local_rank).install_megatron()
        import_target(trainer, f"trainer._target_={trainer}")

    def address(self, one_machine: bool) -> tuple[str, int]:
        """Host and a free port of this rank's machine, for the ranks to meet at. `one_machine`: all are on it."""
        host = "127.0.0.1" if one_machine else _own_address()
        return host, free_port(host)

    def start(self, spec: Any, address: str, port: int) -> None:
        """Join the other ranks and build the models."""
        from rlscale.data.target import instantiate

        self._take_threads()
        node = {"_target_": spec.trainer._target_, **spec.trainer.arguments}
        self._trainer = instantiate(node, "trainer", spec, self._rank, self._world_size, self._local_rank)
        self._trainer.start(address, port)

    def convert(self, spec: Any, address: str, port: int, target: Any, to: Any, critic: bool) -> None:
        """Join the other ranks and convert a model instead of training one; see trainer.megatron.conversion."""
        from rlscale.trainer.megatron.disk.conversion import convert

        self._take_threads()
        place = (self._rank, self._world_size, self._local_rank)
        convert(spec, place, (address, port), target, to, critic=critic)

    def _take_threads(self) -> None:
        """Compute with as many threads as the layout gives; only now, as a process may hold ranks of several stages."""
        import torch

        torch.set_num_threads(self._threads)

    def connect_engines(self, route: Any, urls: list[str], api_key: str) -> None:
        """Connect the ranks' weights to the engines at `urls`; see Trainer.connect_engines."""
        from rlscale.serve.receiver import EngineReceiver

        receivers = [
            EngineReceiver(url, api_key or None, route.timeout_s, route.keep, to_draft=route.to_draft) for url in urls
        ]
        self._trainer.connect_engines(route, receivers)

    def logprobs(self, shard: Any, model: str, temperature: float | None) -> Any:
        """Log-probs of a shard's tokens; see Trainer.logprobs."""
        with self._doing("log-probs"):
            return self._trainer.logprobs(shard, model, temperature=temperature)

    def values(self, shard: Any) -> Any:
        """The critic's values of a shard's tokens; see Trainer.values."""
        with self._doing("values"):
            return self._trainer.values(shard)

    def train_shard(self, shard: Any, version: int, force_old: bool, policy: bool) -> dict[str, float]:
        """One iteration's steps; see Trainer.train_shard."""
        with self._doing("train"):
            return dict(self._trainer.train_shard(shard, version, force_old, policy))

    def part_made(self) -> bool:
        """What Trainer.part_made says; True of a trainer that cannot tell."""
        return not hasattr(self._trainer, "part_made") or bool(self._trainer.part_made())

    def busy(self) -> list[tuple[str, float, float]]:
        """What the rank did since the last call: name, start and end in seconds since 1970."""
        taken, self._busy = self._busy, []
        return taken

    @contextlib.contextmanager
    def _doing(self, name: str) -> Iterator[None]:
        began = time.time()
        try:
            yield
        finally:
            self._busy.append((name, began, time.time()))

    def state_key(self) -> Any:
        """What Trainer.state_key gives; None of a trainer that cannot copy its state."""
        from rlscale.trainer.trainer_protocol import can_copy

        return self._trainer.state_key() if can_copy(self._trainer) else None

    def copy_state(self, share: tuple[int, int] | None) -> Any:
        """What Trainer.copy_state gives, as two results of the call: what the rank has for itself, and the rest."""
        own, rest = self._trainer.copy_state(share)
        return own, rest

    def begin_profile(self) -> None:
        """Record from now on what this process computes."""
        from rlscale.trainer.process_profile import ProcessProfile

        self._profile = ProcessProfile()

    def end_profile(self, folder: Path, iteration: int) -> None:
        """Record no more, and write it as that of an iteration."""
        self._profile.write(folder, f"iteration_{iteration:06d}.rank-{self._rank}")

    def call(self, method: str, *args: Any) -> Any:
        """Any other method of the trainer: send_weights, save, load, sleep, wake, export, close."""
        with self._doing(_LANE_NAMES[method]) if method in _LANE_NAMES else contextlib.nullcontext():
            return getattr(self._trainer, method)(*args)

    def leave(self) -> None:
        """End what the end of the process would end, where this one is not the actor's own."""
        if self._trainer is not None:
            self._trainer.close()


@prints_errors
class RolloutActor(Actor):
    """The rollout service in a process of its own. Asynchronous: calls overlap."""

    def __init__(self, log: str) -> None:
        self._logs_to(log)
        self._service: Any = None

    async def prepare(self, spec: Any) -> None:
        """Build the service: reads data, tokenizer and reward, and raises UserError where one is unusable."""
        from rlscale.data.target import instantiate
        from rlscale.rollout.models_told import ModelsTold

        if spec.served_models:
            self._models = ModelsTold(Path(spec.addresses), spec.served_models)
        self._service = instantiate({"_target_": spec.rollout._target_, **spec.rollout.arguments}, "rollout", spec)

    async def start(self, url: str, api_key: str) -> None:
        """Connect to the router at `url`."""
        from rlscale.rollout.garbage_collection import spare_long_lived

        await self._service.start(url, api_key or None)
        spare_long_lived()

    async def is_there(self) -> None:
        """Answers where nothing holds up the loop of this process."""

    async def tell_model(self, name: str, address: Any) -> None:
        """Where a model of `rollout.models` is from now on."""
        self._models.tell(name, address)

    async def model_loads(self) -> dict[str, Any]:
        """How busy the engines of each of them were since the last call."""
        loads: dict[str, Any] = self._models.loads()
        return loads

    async def score(
        self, url: str, api_key: str, tokens: Any, adapter: str | None = None, fields: Mapping[str, Any] | None = None
    ) -> Any:
        """Log-probs of tokens[1:] at temperature 1 by the engine at `url` itself (and an adapter), past the router.

        `fields`: what the request says besides.
        """
        from rlscale.rollout.engines.client import EngineClient

        client = EngineClient(url, api_key or None, timeout_s=60.0)
        client.adapter = adapter
        try:
            return (await client.score(tokens, **(fields or {})))[1:]
        finally:
            await client.close()

    async def handed_over(self, url: str, generates: str, api_key: str, tokens: Any, new_tokens: int) -> Any:
        """What the engine at `generates` makes of tokens that the one at `url` has read: its tokens and log-probs."""
        from rlscale.rollout.engines.client import EngineClient
        from rlscale.serve.paired import bootstrap_port, together

        client = EngineClient(url, api_key or None, timeout_s=60.0)
        try:
            port = await asyncio.to_thread(bootstrap_port, url, api_key or None)
            found = await client.handed_over(tokens, generates, new_tokens, together(url, port))
            return found.tokens, found.logprobs
        finally:
            await client.close()

    async def evaluate(self, version: int, names: list[str]) -> tuple[dict[str, Any], float]:
        """Measure the weights of `version` on these evaluation sets, one after another.

        The results by name, and when the last was there (seconds since 1970), because nobody waits for it.
        """
        results = {name: await self._service.evaluate(version, *([name] if name else [])) for name in names}
        return results, time.time()

    async def call(self, method: str, *args: Any) -> Any:
        """Any other method of the service: next_batch, pause, resume, evaluate, stats, state_dict, close, ..."""
        return await getattr(self._service, method)(*args)

    async def leave(self) -> None:
        """End what the end of the process would end, where this one is not the actor's own."""
        if self._service is not None:
            await self._service.close()


@prints_errors
class LauncherActor(Actor):
    """Supervises the engines (and on the first machine the router) of one machine. They end when it ends."""

    def __init__(
        self,
        log: str,
        logs: str,
        scratch: str,
        api_key: str,
        host: str,
        fork_server: str | None,
        engine: dict[str, Any],
        stopped_s: float,
    ) -> None:
        """`log` is the name of its own file in the folder `logs`: several machines share that folder.

        `engine` is the node `rollout.engine`. `stopped_s`: how long a server that starts may be stopped.
        """
        self._logs_to(f"{logs}/{log}")

        def make() -> Supervisor:
            from rlscale.data.target import instantiate
            from rlscale.serve.supervisor import Supervisor

            launcher = functools.partial(instantiate, engine, "rollout.engine")
            return Supervisor(
                Path(logs), Path(scratch), api_key, host, fork_server=fork_server, engine=launcher, stopped_s=stopped_s
            )

        # What calls bring is made of this. Several calls come at once: one that imports it while another imports the
        # supervisor would find it half made, as Python breaks a knot of two threads that wait for each other's imports.
        importlib.import_module("rlscale.serve.server_spec")
        # The supervisor is imported late: that is slow, and before this answers `whereabouts` its process is only
        # guessed (`Processes`).
        self._make, self._lock = make, threading.Lock()
        self._made: Supervisor | None = None

    def call(self, method: str, *args: Any) -> Any:
        """Any method of the supervisor: start_engine, start_router, dead, restart, stop, ..."""
        return getattr(self._supervisor, method)(*args)

    def stacks(self) -> dict[str, str]:
        """What the processes of the servers do, by their names."""
        return self._supervisor.stacks()

    def leave(self) -> None:
        """End what the end of the process would end, where this one is not the actor's own."""
        if self._made is not None:
            self._made.stop()

    @property
    def _supervisor(self) -> Supervisor:
        with self._lock:  # several calls come at once
            self._made = self._made or self._make()
            return self._made


def _own_address() -> str:
    import ray

    address = ray.util.get_node_ip_address()
    if not address:
        raise UserError("this machine has no address that the other trainer ranks could reach")
    return str(address)

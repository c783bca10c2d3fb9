"""Many simulated engines for one supervisor: each has a process that can be killed, and answers over HTTP.

The answers of all come from one process of this one, which an engine's own process only stands for: killed or stopped,
it answers no more. A thousand servers would need more memory than there is.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.engine_launcher import EngineSite
from rlscale.serve.http import call
from rlscale.serve.process import ServerProcess
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from rlscale.serve.supervisor import Supervisor

_KEY = "key-of-the-benchmark"
_AT_ONCE = 32
"""Engines that are started beside each other."""


class _FrozenEngine(SimulatedEngine):
    """One that can be made to answer nothing."""

    frozen = False

    async def call(self, path: str, body: Any = None) -> Any:
        if self.frozen:
            await asyncio.get_running_loop().create_future()
        return await super().call(path, body)


def _serve(orders: Connection) -> None:
    """The process that answers for all engines: it is told `listen`, `freeze` or `leave`, and a port."""

    async def main() -> None:
        engines: dict[int, tuple[_FrozenEngine, SimulatedEndpoint]] = {}
        while True:
            order, port = await asyncio.to_thread(orders.recv)
            if order == "listen":
                engine = _FrozenEngine(SimulatedEngineConfig())
                endpoint = SimulatedEndpoint(engine, _KEY, port=port)
                try:
                    await endpoint.__aenter__()
                except OSError:  # several were given the same free port
                    orders.send(False)
                    continue
                engines[port] = engine, endpoint
            elif order == "freeze":
                engines[port][0].frozen = True
            elif order == "leave":
                await engines.pop(port)[1].__aexit__(None, None, None)
            else:
                return
            orders.send(True)

    asyncio.run(main())


class SimulatedEngines:
    """A supervisor and its engines, all healthy, within the block."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.memory_before = 0.0
        """Bytes of this process before it had engines."""
        self._ports: dict[str, int] = {}
        self._processes: dict[str, _StandIn] = {}
        self._orders, theirs = multiprocessing.get_context("spawn").Pipe()
        self._host = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        self._lock = threading.Lock()
        self.supervisor = Supervisor(folder / "logs", folder / "scratch", _KEY, engine=self._launcher)

    def __enter__(self) -> SimulatedEngines:
        with ExitStack() as undone:
            undone.push(self)  # ends what has started, where one does not
            self._host.start()
            self.memory_before = float(psutil.Process().memory_info().rss)
            specs = [ServerSpec(self.name(number), "simulated", Device.cpu) for number in range(self.count)]
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                list(threads.map(self.supervisor.start_engine, specs))
            undone.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.stop()
        self.supervisor.stop()
        self._orders.send(("end", 0))
        self._host.join(10)
        self._host.kill()

    @staticmethod
    def name(number: int) -> str:
        """Of an engine."""
        return f"engine-{number}"

    def order(self, order: str, port: int) -> bool:
        """Tell the process that answers, and wait until it is done; whether it could."""
        with self._lock:
            self._orders.send((order, port))
            return bool(self._orders.recv())

    def kill(self, which: Sequence[int]) -> None:
        """As kill -9 does."""
        for number in which:
            self._processes[self.name(number)].kill()
            self.order("leave", self._ports[self.name(number)])

    def freeze(self, which: Sequence[int]) -> None:
        """As SIGSTOP does."""
        for number in which:
            self._processes[self.name(number)].freeze()
            self.order("freeze", self._ports[self.name(number)])

    def _launcher(self, spec: ServerSpec, site: EngineSite) -> _Launcher:
        return _Launcher(self, spec, site)

    def launched(self, spec: ServerSpec, site: EngineSite, port: int) -> ServerProcess:
        """An engine's process; it listens from now on."""
        self._ports[spec.name] = port
        self._processes[spec.name] = process = _StandIn(site.log, site.scratch / "tmp")
        if not self.order("listen", port):
            site.log.parent.mkdir(parents=True, exist_ok=True)
            with site.log.open("a") as log:
                log.write("address already in use\n")
            process.kill()
        return process


class _Launcher:
    """See rlscale.serve.engine_launcher.EngineLauncher."""

    def __init__(self, engines: SimulatedEngines, spec: ServerSpec, site: EngineSite) -> None:
        self._engines, self._spec, self._site = engines, spec, site

    def launch(self, port: int) -> ServerProcess:
        """See EngineLauncher."""
        return self._engines.launched(self._spec, self._site, port)

    def healthy(self, url: str) -> bool:
        """See EngineLauncher."""
        call(url, "/health", None, timeout=5.0)
        return True


class _StandIn(ServerProcess):
    """A process that does nothing, and ends."""

    def __init__(self, log: Path, scratch: Path) -> None:
        super().__init__(log, scratch)
        self._process = subprocess.Popen(["sleep", "3600"])
        self.pid = self.guard_pid = self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def stop(self, timeout: float = 15.0) -> None:
        self._process.kill()
        self._process.wait(timeout)

    def kill(self) -> None:
        """As kill -9 does."""
        self._process.kill()

    def freeze(self) -> None:
        """As SIGSTOP does."""
        os.kill(self._process.pid, signal.SIGSTOP)

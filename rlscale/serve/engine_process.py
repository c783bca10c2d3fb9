"""How an engine comes to be: forked where that is possible and quick, otherwise as a new process."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from rlscale.config.schema.cluster_config import Device
from rlscale.serve import engine_main
from rlscale.serve.fork_server import ForkedProcess, ForkServer, NotForkedError
from rlscale.serve.process import GuardedProcess, ServerProcess
from rlscale.serve.server_spec import ServerSpec, engine_order, read_at_import

PROGRAM = engine_main.__name__
"""What a fork server of engines imports, and forks."""

_log = logging.getLogger(__name__)


def engine_command() -> list[str]:
    """The command line of an engine that is not forked; everything else reaches it on standard input."""
    return [sys.executable, "-m", PROGRAM]


def start_fork_server(environment: Mapping[str, str], scratch: Path) -> ForkServer:
    """A fork server for CPU engines, which imports SGLang from now on."""
    return ForkServer(PROGRAM, environment, read_at_import(environment), scratch)


class EngineProcesses:
    """Starts the processes of one machine's engines.

    On the CPU they are forked from the fork server at `address`; where there is none, it has ended or the engine needs
    another environment, from one of this object's own. Should that fail too, and always on GPUs, whose contexts no fork
    survives, an engine is a new process that imports everything itself.
    """

    def __init__(self, scratch: Path, api_key: str, address: str | None) -> None:
        self._scratch = scratch
        self._api_key = api_key
        self._address = address
        self._own: ForkServer | None = None
        self._lock = threading.Lock()

    def start(self, spec: ServerSpec, port: int, environment: Mapping[str, str], log: Path) -> ServerProcess:
        """The engine of `spec` on `port`, which takes a while until it answers."""
        order = engine_order(spec, port, self._api_key)

        def forked(address: str) -> ForkedProcess:
            shared = read_at_import(environment)
            timeout_s = spec.start_timeout_s
            return ForkedProcess(address, spec.name, order, environment, shared, log, self._scratch, timeout_s)

        if spec.device is Device.cpu and sys.platform == "linux":
            if self._address is not None:
                try:
                    return forked(self._address)
                except NotForkedError as error:
                    _log.warning("%s is not forked from the run's fork server: %s", spec.name, error)
            try:
                return forked(self._own_address(environment))
            except NotForkedError as error:
                _log.warning("%s is not forked: %s", spec.name, error)
        return self.anew(spec, port, environment, log)

    def anew(self, spec: ServerSpec, port: int, environment: Mapping[str, str], log: Path) -> GuardedProcess:
        """The same engine as a new process, on any device."""
        order = engine_order(spec, port, self._api_key)
        return GuardedProcess(engine_command(), environment, json.dumps(order), log, self._scratch)

    def stop(self) -> None:
        """End the fork server of its own; engines live on."""
        with self._lock:
            if self._own is not None:
                self._own.stop()

    def _own_address(self, environment: Mapping[str, str]) -> str:
        with self._lock:
            if self._own is None or self._own.ended() is not None:
                if self._own is not None:
                    _log.warning("the fork server ended (%s): another is started", self._own.ended())
                    self._own.stop()
                self._own = start_fork_server({**environment, "OMP_NUM_THREADS": "1"}, self._scratch)
            return self._own.address

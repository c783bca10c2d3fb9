"""Fork servers of a CPU run: they import SGLang and Megatron while the driver still looks at the configuration."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rlscale
from rlscale.config.cpu_threads import trainer_threads
from rlscale.config.errors import UserError
from rlscale.config.needs import Needs
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.platform.process_environment import rank_environment
from rlscale.serve import forked_python
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.fork_server import ForkServer
from rlscale.serve.server import base_environment, fork_server_environment

_WORKERS = "rlscale.run.worker_program"


@dataclass(frozen=True)
class Forks:
    """Addresses of the fork servers that a command's processes are forked from; None where there is none.

    They are reached by every process on this machine, where all processes of a CPU run are.
    """

    engines: str | None = None
    workers: str | None = None
    scratch: str = ""
    """Folder for the workers' temporary files."""
    threads: int = 1
    """For which the workers' fork server was started."""

    def runtime_env(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """Ray's `runtime_env` of an actor with these variables, forked where that is possible."""
        if self.workers is None:
            return {"env_vars": dict(variables)}
        return {"env_vars": {**self.shared, **variables}, "py_executable": shlex.join(self.python)}

    @property
    def python(self) -> list[str]:
        """A command that stands in for `python`; it wants the variables `shared`."""
        assert self.workers is not None
        return [sys.executable, "-I", "-S", forked_python.__file__, self.workers, _root(), self.scratch]

    @property
    def shared(self) -> dict[str, str]:
        """Variables that are read when a process starts, and are the same in the fork server and what it forks."""
        return _shared(self.threads)


@contextmanager
def early_forks(config: Config, *, engines: bool = True) -> Iterator[Forks]:
    """The fork servers for a command of this configuration, which end with the block; without `engines` no engines'."""
    if config.cluster.device is not Device.cpu or sys.platform != "linux":
        yield Forks()
        return
    if config.cluster.warm is not None:
        yield read_forks(Path(config.cluster.warm))
        return
    with fork_servers(
        Path(config.run.scratch),
        engines=engines and Needs.of(config).engines and not config.rollout.engine_urls,
        threads=trainer_threads(config),
    ) as forks:
        yield forks


@contextmanager
def fork_servers(scratch: Path, *, engines: bool = True, threads: int = 1) -> Iterator[Forks]:
    """Fork servers of this process's own, with their files in `scratch`, which end with the block."""
    scratch = scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as servers:

        def address(server: ForkServer) -> str:
            servers.callback(server.stop)
            return server.address

        for_engines = address(start_fork_server(fork_server_environment(scratch), scratch)) if engines else None
        environment = {**base_environment(), **_shared(threads)}
        shared = forked_python.read_at_import(environment, _root())
        for_workers = address(ForkServer(_WORKERS, environment, shared, scratch))
        yield Forks(for_engines, for_workers, str(scratch), threads)


def write_forks(forks: Forks, file: Path) -> None:
    """Leave the addresses for other commands: `cluster.warm=<file>`."""
    file.write_text(json.dumps(asdict(forks)) + "\n")


def read_forks(file: Path) -> Forks:
    """What `write_forks` left. UserError where that is not it."""
    try:
        return Forks(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cluster.warm={file} is not the file of a running `python -m rlscale warm` ({error})"
        ) from error


def _shared(threads: int) -> dict[str, str]:
    """See Forks.shared."""
    return {"PYTHONPATH": base_environment()["PYTHONPATH"], **rank_environment(Device.cpu, threads)}


def _root() -> str:
    return str(Path(rlscale.__file__).resolve().parent.parent)

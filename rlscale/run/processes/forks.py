"""Fork servers of a CPU run: they import SGLang and Megatron while the driver still looks at the configuration."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlscale.config.derived.cpu_threads import trainer_threads
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.shown import say_error
from rlscale.platform.ownership import make_own, refuse_foreign_file
from rlscale.platform.process_environment import rank_environment
from rlscale.serve import forked_python
from rlscale.serve.engine_process import PROGRAM as ENGINES
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.fork_server import ForkServer
from rlscale.serve.server_spec import base_environment, fork_server_environment, package_root

_WORKERS = "rlscale.run.processes.worker_program"


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
        return [sys.executable, "-I", "-S", forked_python.__file__, self.workers, package_root(), self.scratch]

    def command(self, *arguments: str) -> list[str]:
        """`python <arguments>`, forked; it wants the variables `shared`, and passes on SIGTERM, SIGINT, SIGUSR1."""
        interpreter, *options, address, root, scratch = self.python
        return [interpreter, *options, forked_python.PASS_SIGNALS, address, root, scratch, *arguments]

    @property
    def shared(self) -> dict[str, str]:
        """Variables that are read when a process starts, and are the same in the fork server and what it forks."""
        return _shared(self.threads)


@contextmanager
def early_forks(config: Config) -> Iterator[Forks]:
    """The engines' fork server for a command of this configuration, which ends with the block; or those of `warm`."""
    if config.cluster.warm is None and _forks(config) and Sizes.of(config).starts_engines:
        with engine_fork_server(Path(config.run.scratch)) as address:
            yield Forks(address)
    else:
        yield warm_forks(config)


def fork_server_programs(config: Config) -> dict[str, str]:
    """The fork servers that a command of this configuration starts, with the program that each imports and forks."""
    if config.cluster.warm is not None or not _forks(config):
        return {}
    engines = {"fork server of engines": ENGINES} if Sizes.of(config).starts_engines else {}
    workers = {} if config.run.in_process else {"fork server of workers": _WORKERS}
    return {**engines, **workers}


def warm_forks(config: Config) -> Forks:
    """The fork servers of the `warm` that the configuration names; none without it."""
    return Forks() if config.cluster.warm is None else read_forks(Path(config.cluster.warm))


def hand_over(config: Config, arguments: Sequence[str]) -> None:
    """Become a stand-in for `python <arguments>`, this very command, forked from the `warm` of its configuration.

    Returns where there is no `warm`, or this process was forked from it, or could not be. What is printed to and the
    exit code stay the same; SIGTERM, SIGINT and SIGUSR1 are passed on.
    """
    if _WORKERS in sys.modules:
        # A `warm` that a shell put into the background ignores Ctrl-C, and so would what is forked from it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return
    if (reason := os.environ.pop(forked_python.NOT_FORKED, None)) is not None:
        say_error(f"note: this command imports everything itself: {reason}")
        return
    forks = warm_forks(config)
    if forks.workers is None or not _forks(config) or config.run.in_process:  # standard input stays here
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, forks.command(*arguments), {**os.environ, **forks.shared})


@contextmanager
def with_workers(config: Config, forks: Forks) -> Iterator[Forks]:
    """The same with the workers' fork server, which ends with the block.

    It comes once the configuration is known to be good: an error is not to wait for a core that imports for nothing.
    """
    if forks.workers is not None or config.run.in_process or not _forks(config):
        yield forks
        return
    with worker_fork_server(Path(config.run.scratch), trainer_threads(config)) as workers:
        yield replace(workers, engines=forks.engines)


@contextmanager
def engine_fork_server(scratch: Path) -> Iterator[str]:
    """The address of a fork server of engines with its files in `scratch`."""
    scratch = make_own(scratch, "run.scratch").resolve()
    server = start_fork_server(fork_server_environment(scratch), scratch)
    try:
        yield server.address
    finally:
        server.stop()


@contextmanager
def worker_fork_server(scratch: Path, threads: int = 1) -> Iterator[Forks]:
    """A fork server of Ray's workers with its files, and theirs, in `scratch`."""
    scratch = make_own(scratch, "run.scratch").resolve()
    environment = {**base_environment(), **_shared(threads)}
    shared = forked_python.read_at_import(environment, package_root())
    server = ForkServer(_WORKERS, environment, shared, scratch)
    try:
        yield Forks(None, server.address, str(scratch), threads)
    finally:
        server.stop()


def write_forks(forks: Forks, file: Path) -> None:
    """Leave the addresses for other commands: `cluster.warm=<file>`."""
    file.write_text(json.dumps(asdict(forks)) + "\n")


def read_forks(file: Path) -> Forks:
    """What `write_forks` left. UserError where that is not it."""
    try:
        refuse_foreign_file(file, "cluster.warm")  # processes of the run would be those of its server
        return Forks(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cluster.warm={file} is not the file of a running `python -m rlscale warm` ({error})"
        ) from error


def _forks(config: Config) -> bool:
    """Whether processes of such a run can be forked: no CUDA context survives it, and guards need Linux."""
    return config.cluster.device is Device.cpu and sys.platform == "linux"


def _shared(threads: int) -> dict[str, str]:
    """See Forks.shared."""
    return {"PYTHONPATH": base_environment()["PYTHONPATH"], **rank_environment(Device.cpu, threads)}

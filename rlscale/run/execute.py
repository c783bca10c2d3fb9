"""From a composed configuration to an exit code: the one function that the command line calls."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlscale.config.errors import UserError
from rlscale.config.keys import config_hash
from rlscale.config.machine import check_machine
from rlscale.config.schema import Config
from rlscale.config.schema.checkpoint_config import Resume
from rlscale.data.target import current_folder_importable
from rlscale.platform.ownership import refuse_shared
from rlscale.run.disk.resume import check_resumable
from rlscale.run.disk.run_folder import refuse_folder
from rlscale.run.job_end import stop_before_end
from rlscale.run.preflight import preflight
from rlscale.run.processes.forks import early_forks, warm_forks, with_workers
from rlscale.trainer.hooks import check_hooks

if TYPE_CHECKING:
    from rlscale.run.processes.actor_host import ActorHost
    from rlscale.run.processes.stop_signal import StopSignal


def execute(config: Config) -> int:
    """Run a checked configuration to its end. Returns 0, or 130 when the user stopped it.

    Raises UserError for everything that the user can mend; by then nothing of the run is left running.
    """
    started = time.time()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # asks for a checkpoint once there can be one; never ends a process
    notes = check_machine(config)
    if config.run.smoke:
        return _smoke(config, notes)
    ending = stop_before_end(config, started, os.environ)
    _refuse_run(config)
    _make_scratch(config)
    with early_forks(config) as early:
        notes += preflight(config)
        _make_folders(config)
        with current_folder_importable(), with_workers(config, early) as forks:
            # Only now: with it come Ray and torch, which take seconds that an error need not wait for.
            from rlscale.run.lifecycle import run_to_end
            from rlscale.run.processes.stop_signal import StopSignal

            stop = StopSignal()
            if ending is not None:
                stop.end_at(*ending)
            with _actors(config, stop) as host:
                stop.install()
                try:
                    return run_to_end(config, stop, started, notes, forks, host)
                finally:
                    stop.restore()


def _smoke(config: Config, notes: list[str]) -> int:
    """Instead of the run one step; see rlscale.run.smoke."""
    _make_scratch(config)
    with current_folder_importable(), with_workers(config, warm_forks(config)) as forks:
        from rlscale.run.lifecycle import STOPPED
        from rlscale.run.processes.stop_signal import StopRequested, StopSignal
        from rlscale.run.smoke import smoke

        check_hooks(config.algo)
        stop = StopSignal()
        with _actors(config, stop) as host:
            stop.install()
            try:
                return smoke(config, stop, notes, forks, host)
            except StopRequested:
                return STOPPED
            finally:
                stop.restore()


@contextmanager
def _actors(config: Config, stop: StopSignal) -> Iterator[ActorHost]:
    """Who has the actors of a run: Ray, up in the block, or this process."""
    from rlscale.run.in_process.this_process import in_this_process
    from rlscale.run.processes.actor_host import RayActors
    from rlscale.run.processes.ray_session import RaySession

    if config.run.in_process:
        with in_this_process(stop) as here:
            yield here
    else:
        with RaySession(config.cluster, Path(config.run.scratch)):
            yield RayActors()


def _refuse_run(config: Config) -> None:
    """UserError where `run.output` is given and holds something that this command can neither continue nor replace."""
    digest = config_hash(config)
    try:
        refuse_folder(config, digest)
    except OSError as error:  # a name that no disk takes, for one
        raise UserError(f"run.output={config.run.output} cannot be used ({error.strerror})") from error
    if config.run.output is not None and config.checkpoint.resume is Resume.auto:
        check_resumable(Path(config.run.output), digest)


def _make_folders(config: Config) -> None:
    """The folders that a run writes its results to. Raises UserError where one cannot be made or written."""
    if config.run.output is not None:
        _make_folder("run.output", config.run.output)
    else:
        _make_folder("run.root", config.run.root)


def _make_scratch(config: Config) -> None:
    """The folder for what can be made again, which is the user's alone. UserError where others could write in it."""
    _make_folder("run.scratch", config.run.scratch, mode=0o700)
    refuse_shared(Path(config.run.scratch), "run.scratch")


def _make_folder(key: str, folder: str, mode: int = 0o777) -> None:
    """`mode` is that of a new folder; the user's umask takes away from it."""
    try:
        Path(folder).mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={folder} cannot be made a folder ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{key}={folder} cannot be written to; choose another folder")

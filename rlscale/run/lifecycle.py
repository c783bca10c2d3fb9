"""One run in a Ray session that is up: the stages before it, then its own loop, and what it leaves behind."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.derived.needs import Needs
from rlscale.config.errors import UserError
from rlscale.config.keys import config_hash
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import TARGET
from rlscale.data.target import build_target
from rlscale.run.assembly import Assembly
from rlscale.run.disk.checkpoint import groups_of
from rlscale.run.disk.records import Records
from rlscale.run.disk.run_folder import RunFolder, open_folder
from rlscale.run.disk.stages import Stage, stages_before, with_result
from rlscale.run.processes.actor_host import ActorHost
from rlscale.run.processes.error_log import ErrorLog
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopRequested, StopSignal
from rlscale.run.sessions.session import Session
from rlscale.run.verbs import Loop, Verbs

STOPPED = 128 + signal.SIGINT


def run_to_end(
    config: Config, stop: StopSignal, started: float, notes: list[str], forks: Forks, host: ActorHost | None = None
) -> int:
    """The stages that are missing, if the run has any, then its own loop. Returns an exit code.

    `forks`: what its processes are forked from. `host`: who has its actors; by default Ray, which must be up.
    """
    digest = config_hash(config)
    folder = open_folder(config, digest)
    # Before anything else is written: a run that is killed from here on is recognised by the same command.
    folder.mark(recipe=config.run.recipe, config_hash=digest, state="unfinished")
    records = Records(config, folder, started)
    assembly = Assembly(config, folder, stop, records, forks, host)
    session: Session | None = None
    status, message = "failed", None
    try:
        write_recipe(config, folder.path)
        records.introduce(notes)
        ready = _launched(assembly, config, lambda: _after_stages(config, stop, records, forks, host))
        session = assembly.session(ready, digest)
        run_loop: Loop = build_target(config.loop, "loop", call_arguments=1)
        run_loop(cast(Verbs, session))  # one that trains nothing has what the loop for it calls
        session.check_ended(str(config.loop[TARGET]))
        status = "finished"
        folder.mark(state="finished")
        shutil.rmtree(groups_of(folder.checkpoints), ignore_errors=True)  # nothing goes on from them
        return 0
    except StopRequested:
        status = "stopped"
        if stop.why is not None:
            records.note(stop.why)
        try:
            if session is not None:
                session.save_and_stop()
        except UserError as error:
            status, message = "failed", str(error)
            raise
        return STOPPED
    except BaseException as error:
        failure = _told(error, folder)
        message = str(failure) or type(failure).__name__
        if session is not None:
            session.save_after_failure()
        if failure is error:
            raise
        raise failure from error
    finally:
        assembly.close()
        records.finish(status, session.state if session is not None else None, message, assembly.restarts)
        folder.release()


def _launched(assembly: Assembly, config: Config, stages: Callable[[], Config]) -> Config:
    """Launch the run and bring its stages to their end; the configuration with what they made."""
    # On GPUs the engines would hold the memory that the stage needs; without a trainer, and where they get adapters
    # alone, they start from what it makes.
    if config.cluster.device is Device.cpu and Needs.of(config).trains and not config.serves_adapters:
        assembly.launch(config)
        return stages()
    ready = stages()
    assembly.launch(ready)
    return ready


def _told(error: BaseException, folder: RunFolder) -> BaseException:
    """The error itself where it says what to do; for one that nobody expected, a line about what was written down."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    errors = ErrorLog(folder.logs)
    errors.exception("driver", error)
    return RunFailed(f"the run failed: {type(error).__name__}: {error}. See {errors.path}")


def _after_stages(config: Config, stop: StopSignal, records: Records, forks: Forks, host: ActorHost | None) -> Config:
    """The configuration with the models of the stages before this run."""
    ready = config
    for stage in stages_before(config):
        ready = with_result(ready, stage.what, _model_of(stage, stop, records, forks, host))
    return ready


def _model_of(stage: Stage, stop: StopSignal, records: Records, forks: Forks, host: ActorHost | None) -> Path:
    """The model that a stage leaves; the stage is run now if it is missing."""
    model = stage.result()
    if model is not None:
        records.note(f"{stage.what}: using {model}")
        return model
    recipe = stage.config.run.recipe
    records.note(f"{stage.what}: no result of recipe={recipe} with this configuration yet; running it first")
    records.suspend()
    if run_to_end(stage.config, stop, time.time(), [], forks, host) != 0:
        raise StopRequested
    records.unsuspend(stage.what)
    model = stage.result()
    assert model is not None
    return model

"""From a composed configuration to an exit code: the one function that the command line calls."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from rlscale.config.compose import config_hash
from rlscale.config.errors import UserError
from rlscale.config.machine import check_machine
from rlscale.config.recipe import write_recipe
from rlscale.config.schema import Config
from rlscale.config.schema.algo import SftLoss
from rlscale.config.schema.cluster import Device, Placement
from rlscale.data.target import current_folder_importable
from rlscale.run import loops
from rlscale.run.assembly import Assembly
from rlscale.run.calls import StopRequested, StopSignal
from rlscale.run.folder import open_folder
from rlscale.run.ray_session import RaySession
from rlscale.run.records import Records
from rlscale.run.session import Session
from rlscale.run.stages import Stage, stages_before, with_result
from rlscale.trainer.hooks import check_hooks

STOPPED = 128 + signal.SIGINT


def execute(config: Config) -> int:
    """Run a checked configuration to its end. Returns 0, or 130 when the user stopped it.

    Raises UserError for everything that the user can mend; by then nothing of the run is left running.
    """
    started = time.time()
    notes = check_machine(config)
    with current_folder_importable():
        _check_hooks(config)
        _make_folders(config)
        stop = StopSignal()
        with RaySession(config.cluster, Path(config.run.scratch)):
            stop.install()
            try:
                return _run(config, stop, started, notes)
            finally:
                stop.restore()


def _check_hooks(config: Config) -> None:
    """Build the hooks of a run and of the stages that it still needs. UserError for one that cannot be built."""
    check_hooks(config.algo)
    for stage in stages_before(config):
        if stage.result() is None:
            _check_hooks(stage.config)


def _make_folders(config: Config) -> None:
    """The folders that a run writes to. Raises UserError where one cannot be made or written."""
    folders = {"run.scratch": config.run.scratch, "run.root": config.run.root, "run.output": config.run.output}
    for key, folder in folders.items():
        if folder is None or (key == "run.root" and config.run.output is not None):
            continue
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{key}={folder} cannot be made a folder ({error.strerror})") from error
        if not os.access(folder, os.W_OK):
            raise UserError(f"{key}={folder} cannot be written to; choose another folder")


def _run(config: Config, stop: StopSignal, started: float, notes: list[str]) -> int:
    """One run in a Ray session that is up: the stages before it, if it has any, then its own loop."""
    digest = config_hash(config)
    folder = open_folder(config, digest)
    # Before anything else is written: a run that is killed from here on is recognised by the same command.
    folder.mark(recipe=config.run.recipe, config_hash=digest, state="unfinished")
    records = Records(config, folder, started)
    assembly = Assembly(config, folder, stop, records)
    session: Session | None = None
    status, message = "failed", None
    try:
        write_recipe(config, folder.path)
        records.introduce(notes)
        beside = config.cluster.device is Device.cpu  # on GPUs the engines would hold the memory that the stage needs
        if beside:
            assembly.launch()
        ready = _after_stages(config, stop, records)
        if not beside:
            assembly.launch()
        session = assembly.session(ready, digest)
        _loop(ready)(session)
        status = "finished"
        folder.mark(state="finished")
        return 0
    except StopRequested:
        status = "stopped"
        if session is not None:
            session.save_and_stop()
        return STOPPED
    except BaseException as error:
        message = str(error) or type(error).__name__
        if session is not None:
            session.save_after_failure()
        raise
    finally:
        assembly.close()
        records.finish(status, session.state if session is not None else None, message, assembly.engine_restarts)
        folder.release()


def _after_stages(config: Config, stop: StopSignal, records: Records) -> Config:
    """The configuration with the models of the stages before this run."""
    ready = config
    for stage in stages_before(config):
        ready = with_result(ready, stage.what, _model_of(stage, stop, records))
    return ready


def _model_of(stage: Stage, stop: StopSignal, records: Records) -> Path:
    """The model that a stage leaves; the stage is run now if it is missing."""
    model = stage.result()
    if model is not None:
        records.note(f"{stage.what}: using {model}")
        return model
    recipe = stage.config.run.recipe
    records.note(f"{stage.what}: no result of recipe={recipe} with this configuration yet; running it first")
    records.suspend()
    if _run(stage.config, stop, time.time(), []) != 0:
        raise StopRequested
    records.unsuspend(stage.what)
    model = stage.result()
    assert model is not None
    return model


def _loop(config: Config) -> Callable[[Session], None]:
    if isinstance(config.algo.loss, SftLoss):
        return loops.supervised
    return loops.disaggregated if config.cluster.placement is Placement.disaggregated else loops.colocated

"""Trackers: where metrics go besides the run's own files. Each is imported only when chosen."""

from __future__ import annotations

import inspect
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlscale.config.errors import UserError, first_line
from rlscale.config.schema.tracker_config import TrackerConfig
from rlscale.data.protocol_methods import check_built
from rlscale.data.target import instantiate, resolve_target
from rlscale.observe.atomic import write_text
from rlscale.observe.formatting import visible

IDENTITY = "tracker_id"
"""The file of a run's folder by which services know it again."""
_AN_IDENTITY = re.compile(rb"[0-9a-f]{16}")


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is built with, besides its own arguments."""

    folder: Path
    """The run's, `<recipe>/<date-time>`; trackers write below it."""
    settings: TrackerConfig
    """The section `tracker`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration as plain data, for trackers that show it."""
    resumed: int | None = None
    """The iteration from which a run continues; later points of the earlier attempt are to be replaced."""

    @property
    def name(self) -> str:
        """The run's name in a tracker."""
        return self.settings.name or f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def id(self) -> str:
        """By which a service knows the run: drawn once and kept in its folder, also where that is moved or continued.

        Not its path, which another machine may have, too. UserError when the disk refuses, or for a file that holds
        something else: services are asked by it.
        """
        kept = self.folder / IDENTITY
        try:
            if not kept.is_file():
                write_text(kept, f"{secrets.token_hex(8)}\n")
            said = kept.read_bytes().strip()
        except OSError as error:
            raise UserError(
                f"{visible(str(kept))}: by which trackers know the run cannot be written or read ({error.strerror}); "
                "make the folder writable, or set tracker=none"
            ) from error
        if _AN_IDENTITY.fullmatch(said) is None:
            raise UserError(
                f"{visible(str(kept))} does not hold the 16 digits by which trackers know the run; write them back, or "
                "delete the file, and it is a new run to them"
            )
        return said.decode()


class Tracker(Protocol):
    """Takes the metrics of a run. `tracker.known.<name>._target_` names a class that is built with a TrackedRun."""

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Take the numbers of one iteration; values that are not finite are passed over.

        It may be an earlier iteration than the last: what engines apart found of its weights (`eval.engines`).
        """

    def close(self) -> None:
        """Write what is left. May be called twice."""


def build_tracker(
    config: TrackerConfig,
    folder: Path,
    *,
    run_config: Mapping[str, Any] | None = None,
    resumed: int | None = None,
) -> Tracker:
    """The tracker of a run: one that hands everything on to those of `config.kinds`; see TrackedRun.

    Raises UserError for a tracker that cannot be built, as where Weights & Biases cannot be reached.
    """
    run = TrackedRun(folder, config, dict(run_config or {}), resumed)
    return Trackers([instantiate(config.known[kind], f"tracker.known.{kind}", run) for kind in config.kinds])


def check_tracker(config: TrackerConfig) -> None:
    """Import the chosen trackers, and look for the key that Weights & Biases needs online, as it will.

    A class may have a static method `check`, which is called with the tracker's own arguments. Raises UserError for a
    tracker that cannot be imported, takes other arguments or lacks a method, for what its `check` finds, and for a
    missing key.
    """
    for kind in config.kinds:
        node, key = config.known[kind], f"tracker.known.{kind}"
        check_built(node, key, Tracker, ("run",))
        made: Any = resolve_target(node, key)
        if isinstance(inspect.getattr_static(made, "check", None), staticmethod):
            made.check(**{name: value for name, value in node.items() if not name.startswith("_")})
    if "wandb" not in config.kinds or config.offline:
        return
    import wandb
    from wandb.sdk.lib import wbauth

    logging.getLogger("wandb").setLevel(logging.WARNING)
    host = wandb.setup().settings.base_url
    try:
        found = wbauth.authenticate_session(host=host, source="rlscale", prompt=False, update_session=False)
    except wandb.Error as error:
        raise UserError(f"tracker.offline=false: {error}; correct it, or set tracker.offline=true") from error
    if found is None:
        raise UserError(
            f"tracker.offline=false: there is no key for {host}; log in with `wandb login`, set WANDB_API_KEY, or set "
            "tracker.offline=true and upload later with `wandb sync`"
        )


class Trackers:
    """Several trackers as one; with none it forgets everything."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Give the numbers to each."""
        for tracker in self._trackers:
            tracker.log(iteration, metrics)

    def close(self) -> None:
        """Close each."""
        for tracker in self._trackers:
            tracker.close()


class TensorBoardTracker:
    """Writes event files through tensorboard's own writer: neither TensorFlow nor torch is imported."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(run.folder / "tensorboard"), flush_secs=10)
        if run.resumed is not None:
            # TensorBoard drops earlier points from this step on: they are made again.
            restart = Event(
                wall_time=time.time(), step=run.resumed + 1, session_log=SessionLog(status=SessionLog.START)
            )
            self._writer.add_event(restart)
            self._writer.flush()

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write one event with all numbers."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in finite_numbers(metrics).items()]
        self._writer.add_event(Event(wall_time=time.time(), step=iteration, summary=Summary(value=values)))

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


_EVALUATED, _EVALUATED_AT = "eval/", "eval/iteration"
"""Beginning of the names of what evaluations find, and the metric that Weights & Biases draws them over."""


class WandbTracker:
    """Weights & Biases; offline it writes to the run's folder only; `wandb sync FOLDER/wandb/*` uploads that later."""

    def __init__(self, run: TrackedRun) -> None:
        config, folder, self._step = run.settings, run.folder, 0
        # What wandb reads only from the environment, and only while it starts: where its own logs go (else the home
        # folder), and that crash reports stay here.
        private = {"WANDB_CACHE_DIR": str(folder / "wandb" / "cache")}
        if config.offline:
            private["WANDB_ERROR_REPORTING"] = "false"
        with environment(private):
            import wandb

            logging.getLogger("wandb").setLevel(logging.WARNING)
            self._run: wandb.Run | None
            try:
                self._run = wandb.init(
                    project=visible(config.project),
                    name=visible(run.name),
                    id=run.id,
                    resume="allow",
                    dir=folder,
                    mode="offline" if config.offline else "online",
                    config=dict(run.config),
                    settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
                )
                self._run.define_metric(f"{_EVALUATED}*", step_metric=_EVALUATED_AT)
            except wandb.Error as error:
                raise UserError(
                    f"tracker=wandb: the run could not be opened ({first_line(error)}); try again, or set "
                    "tracker.offline=true and upload later with `wandb sync`"
                ) from error

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Log one step with all numbers. Steps only go up: an evaluation that comes late says what it is of."""
        numbers = finite_numbers(metrics)
        if any(name.startswith(_EVALUATED) for name in numbers):
            numbers[_EVALUATED_AT] = float(iteration)
        self._step = max(self._step, iteration)
        if self._run is not None:
            self._run.log(numbers, step=self._step)

    def close(self) -> None:
        """Finish the run, then end wandb's own process: `finish` returns before the file is whole."""
        if self._run is not None:
            import wandb

            self._run.finish()
            self._run = None
            wandb.teardown()


@contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set those of the variables that the user has not set, inside the block."""
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def finite_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What of the metrics trackers take, by names that can be shown."""
    return {
        visible(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }

"""When a checkpoint is due: by iterations, by time, and because it was asked for."""

from __future__ import annotations

from rlscale.config.schema.checkpoint_config import CheckpointConfig
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sessions.save_schedule import SaveSchedule


class Clock:
    """Stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def due(schedule: SaveSchedule, iterations: range) -> list[int]:
    return [one for one in iterations if schedule.due(one)]


def test_every_so_many_iterations_and_never_with_0() -> None:
    assert due(SaveSchedule(CheckpointConfig(every=3), StopSignal()), range(1, 8)) == [3, 6]
    assert due(SaveSchedule(CheckpointConfig(every=0), StopSignal()), range(1, 8)) == []


def test_seconds_count_from_the_last_save_whatever_it_was_made_for() -> None:
    clock = Clock()
    schedule = SaveSchedule(CheckpointConfig(every=10, every_s=60.0), StopSignal(), clock)
    clock.now += 59.0
    assert not schedule.due(7)
    clock.now += 1.0
    assert schedule.due(7)
    assert schedule.due(8)  # until one begins
    schedule.begun()
    assert not schedule.due(9)
    assert schedule.due(10)
    clock.now += 60.0
    assert schedule.due(11)


def test_a_checkpoint_that_was_asked_for_is_made_once() -> None:
    stop = StopSignal()
    schedule = SaveSchedule(CheckpointConfig(every=0), stop)
    stop.save_requested = True
    assert schedule.due(1)
    schedule.begun()
    assert not schedule.due(2)

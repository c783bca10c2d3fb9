"""When a session saves, what it waits for, and what it does when the disk refuses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.run.disk.checkpoint import CheckpointFailed, load_progress
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sessions.evaluations import Evaluations
from rlscale.run.sessions.reinforcement_session import ReinforcementSession
from rlscale.run.sessions.session import SessionParts
from rlscale.run.sessions.supervised_session import SupervisedSession
from rlscale.run.sides.engine_side import NoEngines
from rlscale.run.sides.trainer_group import RanksLost


class Trainer:
    """Ranks that have written when `done`; `full` refuses; some are lost in `dies_in`."""

    def __init__(self) -> None:
        self.done, self.full, self.losses, self.awaits_others = False, False, 0, False
        self.copied: list[bool] = []
        self.dies_in: list[str] = []
        self.part = self.silent = False

    def begin_save(self, folder: Path, copy: bool) -> None:
        if "bring_back" in self.dies_in:  # and others came, before anything was asked of them
            self.losses += 1
        folder.mkdir()
        self.copied.append(copy)
        self.done = self.done or not copy  # what is not copied is written by now

    def is_saved(self) -> bool:
        return self.done

    def finish_save(self) -> None:
        if "finish_save" in self.dies_in:
            self.dies_in.remove("finish_save")
            self.losses += 1
            raise RanksLost("checkpoint: the process died")
        if self.full:
            raise UserError("rank 0: [Errno 28] No space left on device")

    def saved(self, checkpoint: Path) -> None: ...

    def part_made(self) -> bool:
        if self.silent:
            raise RunFailed("steps that were made did not finish within 10 s")
        return self.part


class Records:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.written: list[tuple[int, int, dict[str, float]]] = []

    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def iteration(self, state: Any, metrics: dict[str, float]) -> None:
        self.written.append((state.iteration, state.version, metrics))

    def update_counters(self, state: Any) -> None: ...
    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


class GroupSource:
    """A rollout without state."""

    def state_dict(self, *, trained: bool) -> None:
        self.trained = trained

    def is_there(self) -> None: ...


def session(tmp_path: Path, *overrides: str) -> tuple[Any, Trainer, Records]:
    config = compose(None, ["checkpoint.every=1", "run.iterations=9", *overrides])
    trainer: Any = Trainer()
    records: Any = Records()
    source: Any = GroupSource()
    calls = Calls(StopSignal(), 1800.0, str(tmp_path), 20.0)
    trainer.limit_s = lambda: calls._timeout_s
    parts = SessionParts(config, "hash", RunFolder(tmp_path), calls, StopSignal(), source, records)
    kind = SupervisedSession if "algo=sft" in overrides else ReinforcementSession
    return kind(parts, trainer, NoEngines(), partial(Evaluations, config.eval, records)), trainer, records


def whole(tmp_path: Path) -> list[int]:
    found = (tmp_path / "checkpoints").glob("iteration_*")
    return sorted(load_progress(path).iteration for path in found)


def test_the_loop_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    run, trainer, _ = session(tmp_path, "checkpoint.every=2")
    for run.state.iteration in (2, 3):
        run.record()
        assert whole(tmp_path) == []
    trainer.done = True
    run.state.iteration = 5
    run.record()
    assert whole(tmp_path) == [2]
    assert trainer.copied == [True]


def test_nothing_is_copied_where_the_loop_waits(tmp_path: Path) -> None:
    run, trainer, _ = session(tmp_path, "checkpoint.asynchronous=false")
    run.state.iteration = 1
    run.record()
    assert (whole(tmp_path), trainer.copied) == ([1], [False])


def test_a_stop_waits_for_the_checkpoint_that_is_being_written_and_saves_what_came_after_it(tmp_path: Path) -> None:
    run, trainer, _ = session(tmp_path)
    run.state.iteration = 1
    run.record()
    run.state.iteration, trainer.done = 2, True
    run.save_and_stop()
    assert (whole(tmp_path), trainer.copied) == ([1, 2], [True, False])


@pytest.mark.parametrize(("algo", "version"), [("grpo", 8), ("sft", 7)])
def test_weights_that_no_engine_has_yet_are_saved_as_the_next_version(tmp_path: Path, algo: str, version: int) -> None:
    """A resumed run sends them under the number that is saved, while older samples of the buffer have their own."""
    run, trainer, _ = session(tmp_path, f"algo={algo}")
    run.state.iteration, run.state.version, run._unsynced, trainer.done = 1, 7, True, True
    run.save_and_stop()
    (path,) = (tmp_path / "checkpoints").glob("iteration_*")
    assert load_progress(path).version == version
    assert run.state.version == 7


def test_an_iteration_that_a_sync_cut_off_is_logged_before_it_is_saved_for_no_run_makes_it_again(
    tmp_path: Path,
) -> None:
    run, trainer, records = session(tmp_path)
    run.state.iteration, run.state.version, trainer.done = 1, 1, True
    run.record()
    run.state.iteration, run._unsynced, run._metrics = 2, True, {"loss": 0.5}
    run.save_and_stop()
    assert records.written == [(1, 1, {}), (2, 2, {"loss": 0.5})]
    run.save_and_stop()
    assert len(records.written) == 2


def test_a_checkpoint_begun_before_a_bad_step_becomes_whole_and_none_is_made_after_it(tmp_path: Path) -> None:
    run, trainer, _ = session(tmp_path)
    run.state.iteration = 1
    run.record()
    run.state.iteration, trainer.done, run._trustworthy = 2, True, False
    run.save_and_stop()
    assert whole(tmp_path) == [1]


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_a_full_disk_is_said_and_tried_again_and_fails_only_the_last_save(tmp_path: Path, asynchronous: str) -> None:
    run, trainer, records = session(tmp_path, f"checkpoint.asynchronous={asynchronous}")
    trainer.done = True
    for run.state.iteration, trainer.full in ((1, False), (2, True)):
        run.record()
    run._finish_saving(wait=True)
    (note,) = records.notes
    assert "iteration_000002 could not be written (rank 0: [Errno 28]" in note
    assert whole(tmp_path) == [1]
    with pytest.raises(CheckpointFailed, match="iteration_000002 could not be written"):
        run.save()
    trainer.full = False
    run.save()
    assert whole(tmp_path) == [1, 2]


def test_a_checkpoint_that_was_asked_for_is_made_after_the_iteration_and_the_run_goes_on(tmp_path: Path) -> None:
    run, trainer, _ = session(tmp_path, "checkpoint.every=0")
    trainer.done = True
    for run.state.iteration in (1, 2, 3):
        run._stop.save_requested = run.state.iteration == 2
        run.record()
        run._stop.check()
    run._finish_saving(wait=True)
    assert whole(tmp_path) == [2]


def test_others_write_the_last_checkpoint_where_ranks_are_lost_while_it_is_made_whole(tmp_path: Path) -> None:
    run, trainer, records = session(tmp_path)
    run.state.iteration, trainer.dies_in = 1, ["finish_save"]
    run.save()
    assert (whole(tmp_path), trainer.copied) == ([1], [False, False])
    assert "iteration_000001 could not be written (checkpoint: the process died" in records.notes[0]


def test_a_checkpoint_of_ranks_that_came_just_before_it_is_whole(tmp_path: Path) -> None:
    run, trainer, records = session(tmp_path)
    run.state.iteration, trainer.dies_in, trainer.done = 1, ["bring_back"], True
    run.record()
    run._finish_saving(wait=True)
    assert (whole(tmp_path), records.notes) == ([1], [])


@pytest.mark.parametrize("fails", ["ranks", "rollout"])
def test_a_checkpoint_from_which_a_run_cannot_go_on_stays_as_it_is(fails: str, tmp_path: Path) -> None:
    before, *_ = session(tmp_path)
    before.state.iteration = 7
    before.save()
    run, trainer, records = session(tmp_path)
    run.folder.resumed = True

    def refuse(*_: Any) -> None:
        raise UserError("data: has 7 prompts, but the checkpoint was made with 9")

    trainer.damaged = lambda *_: []
    trainer.load = refuse if fails == "ranks" else lambda _: None
    run._group_source.load_state_dict = refuse
    with pytest.raises(UserError, match="has 7 prompts"):
        run._resume()
    run.save_after_failure()
    assert (whole(tmp_path), trainer.copied, records.notes) == ([7], [], [])


def test_a_stop_while_ranks_are_lost_is_no_failure_and_says_that_nothing_was_saved(tmp_path: Path) -> None:
    run, trainer, records = session(tmp_path)
    run.state.iteration, trainer.awaits_others = 1, True
    run.save_and_stop()
    assert (whole(tmp_path), trainer.copied) == ([], [])
    (note,) = records.notes
    assert note.startswith("no checkpoint could be written, as the trainer's ranks are lost")


@pytest.mark.parametrize("ends", ["save_and_stop", "save_after_failure"])
def test_some_steps_of_an_iteration_are_not_saved_for_they_would_be_made_twice(ends: str, tmp_path: Path) -> None:
    run, trainer, records = session(tmp_path)
    run.state.iteration, run._untrained, run._in_steps, trainer.part = 7, True, True, True
    getattr(run, ends)()
    assert (whole(tmp_path), trainer.copied) == ([], [])
    (note,) = records.notes
    assert (
        note
        == "no checkpoint is written, as steps of iteration 8 were made, perhaps not all; the last one still stands"
    )


def test_an_iteration_that_failed_before_its_first_step_is_made_by_the_run_that_continues(tmp_path: Path) -> None:
    run, _, records = session(tmp_path)
    run.state.iteration, run._untrained, run._in_steps = 7, True, True
    run.save_after_failure()
    assert (whole(tmp_path), run._group_source.trained, records.notes) == ([7], False, [])


def test_after_a_failure_ranks_that_answer_have_the_time_that_a_save_takes_and_silent_ones_none(tmp_path: Path) -> None:
    run, trainer, records = session(tmp_path)
    run.state.iteration, limits = 7, []
    ask, begin = trainer.part_made, trainer.begin_save
    trainer.part_made = lambda: limits.append(trainer.limit_s()) or ask()
    trainer.begin_save = lambda folder, copy: limits.append(trainer.limit_s()) or begin(folder, copy)
    run.save_after_failure()
    assert (whole(tmp_path), limits, run._calls.failed) == ([7], [8.0, 1800.0], True)
    run.state.iteration, trainer.silent = 8, True
    run.save_after_failure()
    assert whole(tmp_path) == [7]
    assert [iteration for iteration, *_ in records.written] == [7, 8], "as an iteration that a sync cut off"
    assert records.notes == ["no checkpoint could be written after the failure; the last one still stands"]


@pytest.mark.parametrize(("by_user", "limit_s"), [(True, 8.0), (False, 30.0)])
def test_who_ends_in_time_for_the_end_of_its_job_waits_longer_for_an_answer(
    by_user: bool, limit_s: float, tmp_path: Path
) -> None:
    run, trainer, _ = session(tmp_path)
    run.state.iteration, limits = 7, []
    run._calls._stop.ask() if by_user else run._calls._stop.end_at(0.0, "the job ends")
    trainer.part_made = lambda: limits.append(trainer.limit_s()) or False
    run.save_and_stop()
    assert (whole(tmp_path), limits) == ([7], [limit_s])


def test_ranks_that_wait_for_engines_answer_once_these_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trainer, _ = session(tmp_path)
    run.state.iteration, trainer.silent = 7, True
    monkeypatch.setattr(run._engines, "end", lambda: setattr(trainer, "silent", False))
    run.save_and_stop()
    assert whole(tmp_path) == [7]


def test_a_user_who_stops_a_run_waits_for_nobody_who_is_silent_unless_there_is_nothing_to_save(tmp_path: Path) -> None:
    run, trainer, records = session(tmp_path)
    trainer.silent = True
    run.save_and_stop()
    assert records.notes == []
    run.state.iteration = 7
    with pytest.raises(UserError):
        run.save_and_stop()
    assert whole(tmp_path) == []
    assert [iteration for iteration, *_ in records.written] == [7], "as an iteration that a sync cut off"

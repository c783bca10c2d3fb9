"""Copies of the ranks' state in memory: where lost ranks begin with one, and what a copy that fails comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.run.processes.remote_calls import ProcessLost
from rlscale.run.processes.run_failed import RunFailed
from tests.unit.run.sides.told_trainer import CHECKPOINT, Actors, Told


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    return lambda *overrides: Told(monkeypatch, *overrides)


BACK = "the trainer's ranks are back with the state that was copied in memory"
IN_MEMORY = "checkpoint.in_memory=true"


def test_with_a_copy_in_memory_others_begin_where_the_last_iteration_ended(make: Any) -> None:
    run = make(IN_MEMORY)
    run.train("a", "b")
    run.dies("c")
    run.train("c")
    assert run.ranks[1].state == ["a", "b", "c"]
    assert run.told[-4:] == [
        ("state_key",),
        ("put_state", ["a", "b"], "the rest"),
        ("train_shard", "c", 0, False, True),
        ("copy_state", (0, 1)),
    ]
    assert run.notes[1] == f"{BACK}; iterations trained again: 0"


def test_a_rank_that_is_lost_while_it_copies_costs_one_iteration(make: Any) -> None:
    run = make(IN_MEMORY)
    run.train("a")
    run.dies("copy_state")
    run.train("b")
    assert (len(run.ranks), run.group.awaits_others) == (1, True)
    run.train("c")
    assert run.ranks[1].state == ["a", "b", "c"]
    assert run.notes[1] == f"{BACK}; iterations trained again: 1"


def test_where_the_machine_with_a_copy_is_gone_others_begin_with_the_checkpoint_and_say_why(make: Any) -> None:
    run = make(IN_MEMORY)
    run.train("a", "b")
    run.calls.gone = ["here"]
    run.dies("c")
    run.train("c")
    assert run.ranks[1].state == ["a", "b", "c"]
    why = "as the machine with the copy of rank 0's state is gone"
    assert (
        run.notes[1] == f"the trainer's ranks are back from the run's first weights, {why}; iterations trained again: 2"
    )


def test_without_checkpoints_a_copy_is_enough_and_only_what_came_after_it_is_kept(make: Any) -> None:
    run = make(IN_MEMORY, "checkpoint.every=0")
    run.train("a", "b")
    assert run.group._redo.steps == []
    run.dies("c")
    run.train("c")
    assert run.ranks[1].state == ["a", "b", "c"]
    run.calls.gone = ["here"]
    run.dies("d")
    with pytest.raises(RunFailed, match=r"lost for good, as the machine .* \(checkpoint\.every=0\)"):
        run.train("d")


FULL = "as no copy of their state could be made: the object store is full"


@pytest.mark.parametrize("error", [RunFailed, UserError])
def test_a_copy_that_fails_is_noted_once_and_the_run_goes_on_with_checkpoints_alone(make: Any, error: Any) -> None:
    run = make(IN_MEMORY)
    run.fails("copy_state", error("the object store is full"), times=2)
    run.train("a", "b")
    assert run.notes == [f"lost ranks would begin with a checkpoint, {FULL}"]
    run.dies("c")
    run.train("c")
    assert run.ranks[1].state == ["a", "b", "c"]


def test_without_checkpoints_no_batch_is_kept_where_copies_fail(make: Any) -> None:
    run = make(IN_MEMORY, "checkpoint.every=0")
    run.fails("copy_state", RunFailed("the object store is full"), times=3)
    for shard in "abc":
        run.train(shard)
        assert run.group._redo.steps == []
    assert run.notes == [f"the loss of a rank would end the run, {FULL}"]
    run.train("d")  # which is copied
    run.dies("e")
    run.train("e")
    assert run.ranks[1].state == [*"abcde"]


def test_a_copy_that_wants_more_memory_than_there_is_loses_no_rank(make: Any) -> None:
    run = make(IN_MEMORY)
    run.dies("copy_state", from_within=True, of_memory=True)
    run.train("a", "b")
    assert (len(run.ranks), run.recoveries.count, run.group.losses) == (1, 0, 0)
    assert run.notes[0].startswith("lost ranks would begin with a checkpoint, as no copy of their state could be made")


@pytest.mark.parametrize("late", [False, True])
def test_after_two_losses_of_ranks_that_copy_no_more_copies_are_made(make: Any, late: bool) -> None:
    run = make(IN_MEMORY)
    run.train("a")
    run.dies("copy_state", "copy_state", from_within=late)
    run.train("b", "c", "d", "e")
    assert (run.ranks[-1].state, len(run.ranks), run.recoveries.count) == ([*"abcde"], 3, 2)
    assert [call for call, *_ in run.told].count("copy_state") == 1
    stopped = "ranks were lost 2 times in a row while they copied their state"
    assert run.notes[2] == (
        f"{stopped}: no more copies are made (checkpoint.in_memory), and lost ranks would begin with a checkpoint"
    )
    run.dies("f")
    run.train("f")
    assert run.ranks[-1].state == [*"abcdef"]
    assert run.notes[-1].startswith(f"the trainer's ranks are back from the run's first weights, as {stopped}; ")


def test_a_copy_between_two_losses_of_ranks_that_copy_keeps_copies_on(make: Any) -> None:
    run = make(IN_MEMORY)
    for shard in "abc":
        run.train(f"{shard} is copied")
        run.dies("copy_state")
        run.train(shard)
    run.train("d")
    assert [call for call, *_ in run.told].count("copy_state") == 4


def test_without_checkpoints_the_last_copy_serves_until_ranks_that_copied_are_back(make: Any) -> None:
    run = make(IN_MEMORY, "checkpoint.every=0")
    run.train("a")
    run.dies("copy_state", "copy_state")
    run.train("b", "c", "d")
    assert run.ranks[-1].state == [*"abcd"]
    assert run.group._redo.steps == []
    run.dies("e")
    with pytest.raises(RunFailed, match=r"lost for good, as ranks were lost 2 times .*; the same command begins anew$"):
        run.train("e")


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("error", [RunFailed("the copy of a state lacks policy main 0"), UserError("another model")])
def test_ranks_that_took_a_part_of_a_copy_of_no_use_are_followed_by_others(
    make: Any, error: Exception, saved: bool
) -> None:
    """They may be changed: with what came after the checkpoint they would be trained on that twice."""
    run = make(IN_MEMORY, "run.recover_at_most=1")
    run.train("a", "b")
    if saved:
        run.group.begin_save(CHECKPOINT / "trainer", True)
        run.group.saved(CHECKPOINT)
    run.train("c")
    run.dies("d")
    run.fails("put_state", error)
    run.train("d")
    assert run.ranks[1].ended
    assert run.ranks[-1].state == [*"abcd"]
    assert (len(run.ranks), run.recoveries.count) == (3, 1)
    since = f"from {CHECKPOINT}" if saved else "from the run's first weights"
    again = 1 if saved else 3
    assert run.notes[1] == (
        f"the trainer's ranks are back {since}, as the copy of the trainer's state is of no use: {error}; "
        f"iterations trained again: {again}"
    )


@pytest.mark.parametrize("of_memory", [False, True])
def test_a_copy_that_ranks_raise_of_or_take_too_long_to_take_is_not_given_to_others(make: Any, of_memory: bool) -> None:
    run = make(IN_MEMORY)
    run.train("a", "b")
    run.dies("c", from_within=True)
    run.dies("put_state", from_within=True, of_memory=of_memory)
    run.train("c")
    assert run.ranks[-1].state == [*"abc"]
    assert [call for call, *_ in run.told].count("put_state") == 0


def test_a_rank_that_dies_while_it_takes_a_copy_leaves_it_to_others(make: Any) -> None:
    run = make(IN_MEMORY)
    run.train("a", "b")
    run.dies("c", "put_state")
    run.train("c")
    assert (run.ranks[-1].state, run.recoveries.count) == ([*"abc"], 2)
    assert run.notes[-1] == f"{BACK}; iterations trained again: 0"


def test_where_nothing_is_left_to_begin_with_no_others_are_started_and_the_error_says_what_the_command_does(
    make: Any,
) -> None:
    for resumed in (False, True):
        run = make(IN_MEMORY, "checkpoint.every=0")
        if resumed:
            run.group.load(CHECKPOINT)
        run.train("a")
        run.dies("b")
        run.fails("put_state", RunFailed("the copy lacks a tensor"))
        again = rf"goes on from {CHECKPOINT}" if resumed else "begins anew"
        with pytest.raises(
            RunFailed, match=rf"lost for good, as the copy .* is of no use.*; the same command {again}$"
        ):
            run.train("b")
        assert len(run.ranks) == 2


SAME = ("parallel.data=2",)
"""By default copies are made then."""
UNABLE = "the trainer lacks methods of rlscale.trainer.trainer_protocol.CopiesState"


def test_a_trainer_that_cannot_copy_its_state_goes_without_copies_and_says_so_once(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Actors, "key", None)
    run = make(*SAME)
    run.train("a")
    run.dies("b")
    run.train("b")
    assert run.ranks[1].state == ["a", "b"]
    assert "copy_state" not in [call for call, *_ in run.told]
    assert run.notes == [
        f"{UNABLE}: no copies of its state are made, and lost ranks would begin with a checkpoint",
        "training step: the process died; starting the trainer's ranks again",
        f"the trainer's ranks are back from the run's first weights, as {UNABLE}; iterations trained again: 1",
    ]


def test_without_checkpoints_a_trainer_that_cannot_copy_its_state_keeps_no_batch(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Actors, "key", None)
    run = make(*SAME, "checkpoint.every=0")
    run.train("a")
    run.dies("b")
    with pytest.raises(ProcessLost, match="training step: the process died"):
        run.train("b")
    assert (len(run.ranks), run.group._redo.steps) == (1, [])


def test_copies_that_were_asked_for_of_a_trainer_that_makes_none_are_refused(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Actors, "key", None)
    with pytest.raises(UserError, match=rf"^checkpoint\.in_memory=true: {UNABLE}; write them, or leave"):
        make(IN_MEMORY)

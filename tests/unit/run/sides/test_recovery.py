"""Lost ranks: others come in their place, are brought to where these were, and are asked again."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.run.processes.remote_calls import ProcessLost
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sides.recovery import RedoLog, Steps
from rlscale.run.sides.trainer_group import RanksLost
from tests.unit.run.sides.told_trainer import CHECKPOINT, Told


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    return lambda *overrides: Told(monkeypatch, *overrides)


def test_others_begin_with_the_checkpoint_train_on_what_came_after_it_and_are_asked_again(make: Any) -> None:
    run = make()
    run.train("a", "b")
    run.group.begin_save(CHECKPOINT / "trainer", True)
    run.train("c")  # while it is written
    run.group.saved(CHECKPOINT)
    run.dies("d")
    assert run.group.train_shards(["d"], 3, force_old=True, policy=False) == {"loss": 4.0}
    assert run.ranks[1].state == ["a", "b", "c", "d"]
    assert run.told[-3:] == [
        ("load", CHECKPOINT / "trainer", False),
        ("train_shard", "c", 0, False, True),
        ("train_shard", "d", 3, True, False),
    ]
    assert [ranks.ended for ranks in run.ranks] == [True, False]
    assert run.notes == [
        "training step of the critic: the process died; starting the trainer's ranks again",
        f"the trainer's ranks are back from {CHECKPOINT}, as no other rank has its state; iterations trained again: 1",
    ]


def test_ranks_that_die_when_they_are_asked_what_they_did_have_made_their_steps_once(make: Any) -> None:
    run = make()
    run.train("a", "b")
    run.dies("busy")
    assert run.group.busy() == [[("train", 1.0, 2.0)]]
    assert run.ranks[1].state == ["a", "b"]


def test_before_the_first_checkpoint_everything_is_trained_again_from_the_first_weights(make: Any) -> None:
    run = make()
    run.train("a", "b")
    run.dies("export")
    run.group.call("export", what="export")
    assert run.ranks[1].state == ["a", "b"]
    back = "the trainer's ranks are back from the run's first weights, as no other rank has its state"
    assert run.notes[1] == f"{back}; iterations trained again: 2"


def test_ranks_that_are_lost_on_their_way_back_are_followed_by_others_up_to_the_bound(make: Any) -> None:
    run = make("run.recover_at_most=2")
    run.train("a")
    run.dies("b", "a")
    run.group.train_shards(["b"], 1)
    assert (run.ranks[2].state, run.recoveries.count) == (["a", "b"], 2)
    run.dies("c")
    with pytest.raises(
        RunFailed, match=r"died\. See logs \(run\.recover_at_most=2 recoveries within 100 iterations are"
    ):
        run.group.train_shards(["c"], 2)
    with pytest.raises(RunFailed, match="used up"):  # nobody is asked any more
        run.group.call("export", what="export")
    assert len(run.ranks) == 3


def test_a_long_run_has_its_recoveries_again_after_a_while(make: Any) -> None:
    run = make("run.recover_at_most=1")
    for number in range(300):
        if number in (0, 100, 250):
            run.dies(number)
        run.group.train_shards([number], number)
    run.dies(300)
    with pytest.raises(RunFailed, match="recoveries within 100 iterations are used up"):
        run.group.train_shards([300], 300)
    assert run.recoveries.count == 3


@pytest.mark.parametrize("overrides", [["run.recover=none"], ["checkpoint.every=0"], ["run.in_process=true"]])
def test_where_nothing_is_to_come_back_the_loss_is_the_error_and_no_batch_is_kept(make: Any, overrides: Any) -> None:
    run = make(*overrides)
    run.train("a")
    run.dies("b")
    with pytest.raises(ProcessLost, match="training step: the process died"):
        run.group.train_shards(["b"], 1)
    assert (len(run.ranks), run.group._redo.steps) == (1, [])


@pytest.mark.parametrize("why", ["stopping", "failed"])
def test_nothing_comes_back_into_a_run_that_ends(make: Any, why: str) -> None:
    run = make()
    setattr(run.calls, why, True)
    run.dies("wake")
    with pytest.raises(ProcessLost):
        run.group.call("wake", what="trainer wake")
    assert len(run.ranks) == 1


def test_what_a_call_does_by_itself_twice_in_a_row_ends_the_run(make: Any) -> None:
    run = make()
    run.dies("a", "a", from_within=True)
    with pytest.raises(ProcessLost):
        run.train("a")
    assert run.recoveries.count == 1


def test_somebody_else_who_is_lost_meanwhile_is_no_loss_of_ranks(make: Any) -> None:
    run = make()

    def launcher() -> None:
        raise ProcessLost("engine check: the process died", ["a launcher"])

    run.group._way, run.group._connected = (SimpleNamespace(timeout_s=1.0), ("url",), ""), ("url",)
    with pytest.raises(ProcessLost, match="engine check"):
        run.group.send_weights(3, launcher)
    assert (len(run.ranks), run.group.losses) == (1, 0)


def test_others_are_connected_to_the_engines_before_they_send_weights(make: Any) -> None:
    run = make()
    route: Any = SimpleNamespace(timeout_s=1.0)
    run.group.connect_engines(route, ("url",), "key")
    run.dies("send_weights")
    run.group.send_weights(3, lambda: None)
    connect = ("connect_engines", route, ["url"], "key")
    assert run.told == [connect, connect, ("send_weights", 3)]


def test_ranks_that_wait_for_an_engine_are_waited_for_longer_than_they_wait_themselves(make: Any) -> None:
    run = make()
    run.group.connect_engines(SimpleNamespace(timeout_s=30.0), ("url",), "key")
    run.group.send_weights(3, lambda: None)
    assert run.calls.limits == [60.0, 60.0]


def test_a_profile_is_all_that_is_lost_with_ranks_that_write_it(make: Any) -> None:
    run = make()
    run.dies("end_profile")
    with run.group.profiled(Path("profile"), 1):
        run.train("a")
    assert (len(run.ranks), run.group.losses) == (1, 1)
    run.train("b")
    assert run.ranks[1].state == ["a", "b"]
    run = make("run.recover=none")
    run.dies("end_profile")
    with pytest.raises(ProcessLost, match="writing the profile of iteration 1"), run.group.profiled(Path("p"), 1):
        run.train("a")


def test_what_was_being_saved_is_lost_and_others_come_when_they_are_needed(make: Any) -> None:
    run = make()
    run.group.begin_save(CHECKPOINT, True)
    run.dies("saved")
    with pytest.raises(RanksLost):
        run.group.is_saved()
    assert (len(run.ranks), run.group.losses, run.group.awaits_others) == (1, 1, True)
    run.train("a")
    assert (run.ranks[1].state, run.group.awaits_others) == (["a"], False)


def test_an_optimizer_is_reset_only_where_the_run_itself_was_continued(make: Any) -> None:
    for resumed in (True, False):
        run = make()
        run.group._redo = RedoLog(CHECKPOINT, resumed)
        run.dies("wake")
        run.group.call("wake", what="trainer wake")
        assert ("load", CHECKPOINT / "trainer", resumed) in run.told


def test_a_damaged_checkpoint_is_no_place_to_go_on_from(make: Any) -> None:
    run = make()
    run.group._redo = RedoLog(CHECKPOINT)
    run.dies("wake")
    damaged = SimpleNamespace(remote=lambda method, *_: ["trainer/__0_0.distcp"] if method == "damaged" else None)
    made = run.new

    def new() -> Any:
        actors = made()
        actors.handles[0].call = damaged
        return actors

    run.group._places.new_actors = new
    with pytest.raises(RunFailed, match=rf"cannot go on from {CHECKPOINT}: trainer/__0_0\.distcp is not what"):
        run.group.call("wake", what="trainer wake")


IN_MEMORY = "checkpoint.in_memory=true"


@pytest.mark.parametrize("given", [[], [IN_MEMORY]])
def test_what_ranks_did_is_asked_of_those_that_came_in_the_place_of_lost_ones(make: Any, given: list[str]) -> None:
    run = make(*given)
    if given:
        run.dies("copy_state")
        run.train("a")
    else:
        run.dies("end_profile")
        with run.group.profiled(Path("profile"), 1):
            run.train("a")
    assert len(run.group.busy()) == 1
    assert (run.recoveries.count, len(run.ranks), run.ranks[1].ended) == (1, 2, False)


@pytest.mark.parametrize("given", [[], [IN_MEMORY], [IN_MEMORY, "checkpoint.every=0"]])
@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_lost_at_whatever_call_every_batch_is_trained_on_once_in_its_order(
    make: Any, seed: int, given: list[str]
) -> None:
    draw = random.Random(seed)
    run = make("run.recover_at_most=10000", *given)
    copied = True

    def dies(method: str) -> bool:
        """Without checkpoints not of copying twice in a row: nothing would bring ranks back from there on."""
        nonlocal copied
        if method != "copy_state":
            return draw.random() < 0.15
        copied = draw.random() >= 0.15 or ("checkpoint.every=0" in given and not copied)
        return not copied

    run.dies_of.append(dies)
    writing: tuple[Path, int] | None = None
    trained: list[int] = []
    for number in range(60):
        what = draw.choice(["train", "train", "send", "save", "look", "busy"])
        if what == "train":
            run.train(number)
            trained.append(number)
        elif what == "send":
            run.group.connect_engines(SimpleNamespace(timeout_s=1.0), ("url",), "key")
            run.group.send_weights(number, lambda: None)
        elif what == "busy":
            run.group.busy()
        elif what == "save" and writing is None:
            with suppress(RanksLost):
                run.group.begin_save(Path(f"{number}/trainer"), True)
                writing = Path(f"{number}"), run.group.losses
        elif what == "look" and writing is not None:
            (checkpoint, losses), writing = writing, None
            with suppress(RanksLost):
                if losses == run.group.losses and run.group.is_saved():
                    run.group.finish_save()
                    run.group.saved(checkpoint)
    run.group.call("export", what="export")
    assert run.ranks[-1].state == trained
    assert [ranks.ended for ranks in run.ranks] == [True] * (len(run.ranks) - 1) + [False]
    assert run.recoveries.count > 0


def test_a_checkpoint_that_failed_leaves_what_was_trained_since_the_one_before() -> None:
    log = RedoLog()
    steps = [Steps([name], 0, False, True) for name in "abc"]
    log.steps.append(steps[0])
    log.save_begun()
    log.steps.append(steps[1])
    log.save_begun()  # the first did not become whole
    log.steps.append(steps[2])
    log.saved(CHECKPOINT)
    assert (log.checkpoint, log.steps) == (CHECKPOINT, steps[2:])

"""Where machines are gone for good, ranks come back as fewer copies of the model, which train on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.run.processes.machines_gone import MachinesGone
from rlscale.run.processes.placement import Layout, Slot, lay_out_run
from rlscale.run.sides import rank_places
from rlscale.run.sides.batching import divide
from rlscale.run.sides.rank_places import RankPlaces
from rlscale.run.sides.recovery import Recoveries
from rlscale.trainer.trainer_spec import TrainerSpec

CLUSTER = (
    "cluster=multinode_disaggregated",
    "cluster.gpus_per_node=2",
    "cluster.placement=disaggregated",
    "cluster.rollout_nodes=1",
)
MACHINES = "abcd"


class Cluster:
    """In Ray's place, with a clock that waiting moves."""

    def __init__(self) -> None:
        self.now, self.gone, self.comes_at = 0.0, set(), float("inf")
        self.put = self.get = lambda value: value

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def standing_in(self, nodes: Sequence[str], used: Collection[int], gpus: int) -> list[str]:
        others = ["new" if name in self.gone and self.now >= self.comes_at else name for name in nodes]
        lacking = [number for number in used if others[number] in self.gone]
        if lacking:
            raise MachinesGone(others, lacking, "")
        return others


class Ranks:
    """The places of a run on four machines of two GPUs, one of them the engines'; and what the terminal shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        self.config = compose(None, [*CLUSTER, *overrides])
        self.cluster, self.notes = Cluster(), []
        self.started: list[tuple[Layout, list[str]]] = []
        monkeypatch.setattr(rank_places, "RankActors", self._begin)
        calls: Any = SimpleNamespace(host=self.cluster, check_stop=lambda: None)
        forks: Any = None
        layout = lay_out_run(self.config)
        given = (layout, list(MACHINES), calls, Path(), self.config, forks)
        both: list[Any] = [SimpleNamespace(note=self.notes.append, may_shrink=may) for may in (True, False)]
        self.places, self.whole = (RankPlaces(*given, recoveries) for recoveries in both)

    def _begin(self, layout: Layout, nodes: list[str], *_: Any) -> None:
        self.started.append((layout, nodes))

    @property
    def slots(self) -> list[tuple[str, int]]:
        """Machine and GPU of each rank that was started last."""
        layout, nodes = self.started[-1]
        return [(nodes[slot.node], slot.gpus[0]) for slot in layout.ranks]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ranks]:
    return lambda *overrides: Ranks(monkeypatch, *overrides)


def test_a_machine_that_comes_in_time_takes_the_place_of_one_that_is_gone(make: Any) -> None:
    run = make()
    run.cluster.gone, run.cluster.comes_at = {"b"}, 30.0
    run.places.new_actors()
    assert run.slots == [(name, gpu) for name in ("a", "new", "c") for gpu in (0, 1)]
    assert (run.places.copies, run.cluster.now) == (6, 30.0)
    assert run.notes == ["a machine of the trainer's ranks is gone; waiting 120 s for another one"]


def test_where_none_comes_fewer_copies_go_on_and_the_next_loss_does_not_wait_again(make: Any) -> None:
    run = make("parallel.tensor=2", "run.recover_smaller_after_s=9")
    run.cluster.gone = {"b"}
    run.places.new_actors()
    assert run.slots == [("a", 0), ("a", 1), ("c", 0), ("c", 1)]
    assert (run.places.copies, run.cluster.now) == (2, 9.0)
    assert run.notes[1:] == [
        "no machine came in the place of one that is gone (run.recover_smaller_after_s): going on with 2 of 3 "
        "data-parallel ranks, so that passes and steps take about 1.5 times as long; batches and steps are the same, "
        "results but for the order of sums"
    ]
    spec: Any = SimpleNamespace(data_parallel=3)
    run.places.new_actors()
    assert (run.cluster.now, len(run.notes)) == (9.0, 2)
    run.cluster.gone = set()
    run.places.new_actors()
    assert run.places.told(spec) is spec
    assert run.notes[2:] == ["the trainer's ranks have their machines again: 3 data-parallel ranks"]


def test_as_many_whole_copies_go_on_as_there_is_room_for(make: Any) -> None:
    run = make("parallel.tensor=2", "parallel.pipeline=2", "parallel.data=1")
    run.cluster.gone = {"c"}
    run.places.new_actors()
    assert (run.places.copies, len(run.slots), run.notes) == (1, 4, [])  # no rank was there
    run = make()
    run.cluster.gone = {"b", "c"}
    run.places.new_actors()
    assert (run.places.copies, run.slots) == (2, [("a", 0), ("a", 1)])


def test_copies_whose_number_the_experts_do_not_allow_are_left_out(make: Any) -> None:
    """Experts are shared out over two ranks: of the five that there is room for four go on."""
    run = make("model=tiny_qwen3_moe", "parallel.expert=2", "parallel.data=6", "cluster.rollout_gpus=0")
    run.cluster.gone = {"b"}
    run.places._layout = replace(run.places._layout, ranks=(Slot(1, (0,)), *(Slot(0, (gpu,)) for gpu in range(5))))
    run.places.new_actors()
    assert (run.places.copies, len(run.slots)) == (4, 4)


def test_for_the_first_machine_nobody_waits_as_the_run_ends_with_it(make: Any) -> None:
    run = make()
    run.cluster.gone = {"a"}
    with pytest.raises(
        UserError, match=r"^a machine of the trainer's ranks is gone.*the same command resumes the run$"
    ):
        run.places.new_actors()
    assert (run.cluster.now, run.notes) == (0.0, [])


@pytest.mark.parametrize("whole", [False, True])
def test_without_room_for_a_copy_or_where_there_may_not_be_fewer_the_run_ends(make: Any, whole: bool) -> None:
    given = ["parallel.tensor=2", "parallel.pipeline=2", "parallel.data=1"]
    run = make(*([] if whole else given))
    run.cluster.gone = {"b"}
    why = "one copy of the model takes 4" if not whole else "the same command resumes the run$"
    with pytest.raises(UserError, match=f"a machine of the trainer's ranks is gone.*{why}"):
        (run.whole if whole else run.places).new_actors()
    assert run.cluster.now == (0.0 if whole else 120.0)
    run = make("run.recover_smaller_after_s=null")
    run.cluster.gone = {"b"}
    with pytest.raises(UserError, match=r"the same command resumes the run$"):
        run.places.new_actors()


@pytest.mark.parametrize(
    ("given", "fewer"),
    [
        (["checkpoint.every=5"], True),
        (["checkpoint.every=0"], True),  # from the copies in memory
        (["checkpoint.every=0", "trainer.distributed_optimizer=true", "checkpoint.in_memory=true"], False),
        (["checkpoint.every=0", "checkpoint.in_memory=false"], False),
    ],
)
def test_fewer_ranks_are_waited_for_only_where_they_have_something_to_begin_with(given: list[str], fewer: bool) -> None:
    nobody: Any = None
    recoveries = Recoveries(compose(None, [*CLUSTER, *given]), nobody, lambda line: None)
    assert recoveries.may_shrink is fewer


def test_what_was_divided_for_more_copies_is_divided_as_it_would_have_been_for_fewer(make: Any) -> None:
    run = make()
    lengths = np.array([5, 3, 9, 1, 7, 2, 8, 4, 6, 3, 5, 2])
    batch = Batch(np.concatenate([[0], np.cumsum(lengths)]))
    batch = batch.with_column("step", np.repeat([0, 1], 6)).with_column("tokens", np.arange(lengths.sum()))
    shards, _ = divide(batch, run.config)
    assert len(shards) == 6
    assert run.places.dealt(shards) is shards
    run.cluster.gone = {"b", "c"}
    run.places.new_actors()
    for found, wanted in zip(run.places.dealt(shards), divide(batch, run.config, 2)[0], strict=True):
        assert found.row_ids.tolist() == wanted.row_ids.tolist()
        assert [[k.tolist() for k in step] for step in found.steps] == [[k.tolist() for k in s] for s in wanted.steps]
        assert found.batch.column("tokens").tolist() == wanted.batch.column("tokens").tolist()


def test_fewer_ranks_are_told_how_many_they_are(make: Any) -> None:
    run = make()
    run.cluster.gone = {"b", "c"}
    run.places.new_actors()
    spec = TrainerSpec.__new__(TrainerSpec)
    for name in TrainerSpec.__dataclass_fields__:
        object.__setattr__(spec, name, 6 if name == "data_parallel" else None)
    assert run.places.told(spec).data_parallel == 2

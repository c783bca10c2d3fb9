"""Ranks that come back as fewer copies of the model, or as more, in the middle of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import COLUMNS, Moment, Pass
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.run.processes.machines_gone import MachinesGone
from rlscale.run.processes.placement import Layout, lay_out_run
from rlscale.run.sides import rank_places
from rlscale.run.sides.batching import divide
from rlscale.run.sides.recovery import Recoveries
from rlscale.run.sides.trainer_group import TrainerGroup
from tests.unit.run.sides.told_trainer import Calls, Death

LAYOUT = (
    "cluster=multinode_disaggregated",
    "cluster.gpus_per_node=2",
    "cluster.placement=disaggregated",
    "cluster.rollout_nodes=1",
    "parallel.tensor=2",
)
"""Three machines with a copy of two ranks each, and one of engines."""
LENGTHS = np.array([5, 3, 9, 1, 7, 2, 8, 4, 6, 3, 5, 2])


@dataclass(frozen=True)
class Spec:
    """What is told of a trainer here."""

    data_parallel: int = 3


class Machines:
    """Of Ray's cluster; waiting takes no time."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.now = 0.0
        self.put = self.get = lambda value: value

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def check(self) -> None:
        """Ray lives."""

    def gone(self, nodes: Sequence[str]) -> list[str]:
        return [node for node in nodes if node in self.lost]

    def standing_in(self, nodes: Sequence[str], used: Collection[int], gpus: int) -> list[str]:
        lacking = [number for number in used if nodes[number] in self.lost]
        if lacking:
            raise MachinesGone(list(nodes), lacking, "")
        return list(nodes)


class Run:
    """A trainer whose log-probs are the token ids, and what its copies were trained on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = compose(None, [*LAYOUT, "run.recover_smaller_after_s=9"])
        self.machines, self.notes = Machines(), []
        self.trained: dict[int, list[list[int]]] = {}
        """By version the rows of each copy, of the last ranks that trained on them."""
        self.given: list[list[int]] = []
        """The states that ranks were given: the versions that they were trained on."""
        self.loses = ""
        """The machine that is gone with the next call of a pass or step."""
        self.breaks = False
        """Whether a rank dies of it although its machine is there."""
        monkeypatch.setattr(rank_places, "RankActors", lambda *given: Ranks(self, *given))
        calls: Any = Calls()
        calls.host = self.machines
        recoveries = Recoveries(self.config, calls, self.notes.append)
        forks: Any = None
        spec: Any = Spec()
        self.group = TrainerGroup(
            rank_places.RankPlaces(lay_out_run(self.config), [*"abcd"], calls, Path(), self.config, forks, recoveries)
        )
        self.group.start(spec, 1.0)

    def dies(self) -> bool:
        """Whether the call that is made now is the last of its rank."""
        dies = bool(self.loses) or self.breaks
        self.machines.lost |= {self.loses} - {""}
        self.loses, self.breaks = "", False
        return dies

    def column(self, batch: Batch, shards: list[RankShard]) -> list[float]:
        """What a pass gives for each token."""
        found: list[float] = self.group.columns(
            Pass("old_logprobs", COLUMNS["old_logprobs"], Moment.batch), shards, batch
        ).tolist()
        return found


class Ranks:
    """Two ranks of each copy, of which the second has the logits."""

    def __init__(self, run: Run, layout: Layout, nodes: Sequence[str], *_: Any) -> None:
        self._run, self._count, self.ended = run, len(layout.ranks), False
        self.machines = tuple(nodes[slot.node] for slot in layout.ranks)
        self.handles = [self._rank(number) for number in range(self._count)]

    def _rank(self, number: int) -> Any:
        state: list[int] = []

        def logprobs(shard: RankShard, model: str, temperature: float | None) -> Any:
            if self.ended or self._run.dies():
                return Death()
            return shard.batch.column("tokens").astype(np.float32) if number % 2 else None

        def train(shard: RankShard, version: int, *_: Any) -> Any:
            if self.ended or self._run.dies():
                return Death()
            state.append(version)
            copies = self._run.trained.setdefault(version, [])
            if number == 0:
                copies.clear()
            if number % 2:
                copies.append(shard.row_ids.tolist())
            return {"loss": 1.0}

        def call(method: str, own: list[int], *parts: Any) -> None:
            assert method == "put_state"
            state[:] = own
            self._run.given.append(own)

        copy = SimpleNamespace(remote=lambda share: [list(state), "a part"])
        methods = {"logprobs": logprobs, "train_shard": train, "call": call, "state_key": lambda: number % 2}
        handle = SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
        handle.copy_state = SimpleNamespace(options=lambda num_returns: copy)
        return handle

    def start(self, spec: Spec, timeout_s: float) -> list[int]:
        assert 2 * spec.data_parallel == self._count
        return [number // 2 for number in range(self._count)]

    def end(self, wait_s: float = 0.0) -> None:
        self.ended = True


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Run]:
    return lambda: Run(monkeypatch)


@pytest.fixture
def batch() -> Batch:
    batch = Batch(np.concatenate([[0], np.cumsum(LENGTHS)]))
    return batch.with_column("step", np.zeros(12, np.int64)).with_column("tokens", np.arange(LENGTHS.sum()) + 100)


def rows(trained: list[list[int]]) -> list[int]:
    return sorted(row for copy in trained for row in copy)


def test_a_pass_whose_ranks_come_back_as_fewer_copies_gives_the_column_of_an_undisturbed_one(
    make: Any, batch: Batch
) -> None:
    run = make()
    shards, _ = divide(batch, run.config, run.group.copies)
    undisturbed = run.column(batch, shards)
    assert undisturbed == batch.column("tokens").tolist()
    run.loses = "b"
    assert run.column(batch, shards) == undisturbed
    assert (run.group.copies, run.group.losses, run.machines.now) == (2, 1, 9.0)
    run.group.train_shards(shards, 1)
    assert (len(run.trained[1]), rows(run.trained[1])) == (2, [*range(12)])


def test_copies_that_come_back_in_the_middle_of_an_iteration_take_their_part_of_what_is_left_of_it(
    make: Any, batch: Batch
) -> None:
    run = make()
    run.loses = "b"
    run.group.train_shards(divide(batch, run.config, run.group.copies)[0], 1)
    assert (run.group.copies, len(run.trained[1])) == (2, 2)
    shards, _ = divide(batch, run.config, run.group.copies)
    undisturbed = run.column(batch, shards)
    run.machines.lost.clear()
    run.breaks = True
    assert run.column(batch, shards) == undisturbed == batch.column("tokens").tolist()
    assert run.group.copies == 3
    assert run.given == [[1]] * 6  # what the two copies were trained on
    run.group.train_shards(shards, 2)
    assert (len(run.trained[2]), rows(run.trained[2])) == (3, [*range(12)])
    run.loses = "c"  # and fewer again, in a step that was divided for as many
    run.group.train_shards(shards, 3)
    assert (len(run.trained[3]), rows(run.trained[3])) == (2, [*range(12)])
    assert run.given[6:] == [[1, 2]] * 4
    assert run.notes[-1].startswith("the trainer's ranks are back with the state that was copied in memory")

"""What ranks compute for their parts comes back as one column of the whole batch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlscale.config.derived.needs import COLUMNS, Moment, Pass
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.run.processes.actors import TrainerActor
from rlscale.run.sides.trainer_group import TrainerGroup

LENGTHS = (3, 1, 4, 2)


class Rank:
    """A rank whose log-probs are the token ids, and whose values are minus those; one in two has the logits."""

    def __init__(self, answers: bool) -> None:
        self._answers = answers
        self.trained: tuple[Any, ...] = ()
        self.seen: set[str] = set()
        factors = {"policy": 1, "teacher": 2, "behaviour": 3, "reference": 4}
        self.logprobs = SimpleNamespace(remote=lambda part, model, _: self._answer(part, factors[model]))
        self.values = SimpleNamespace(remote=lambda part: self._answer(part, -1))
        self.train_shard = SimpleNamespace(remote=self._train)

    def _answer(self, part: RankShard, factor: int) -> Any:
        self.seen |= set(part.batch.columns)
        return (factor * part.batch.column("tokens")).astype(np.float32) if self._answers else None

    def _train(self, *arguments: Any) -> dict[str, float]:
        self.trained = arguments
        return {"loss": 1.0}


def pass_for(column: str, model: str | None = None) -> Pass:
    return Pass(column, model or COLUMNS[column], Moment.batch)


@pytest.fixture
def group() -> TrainerGroup:
    """Two data-parallel places of two ranks each."""
    group = TrainerGroup.__new__(TrainerGroup)
    group._calls = SimpleNamespace(
        wait=lambda calls, _, **options: calls, host=SimpleNamespace(put=lambda value: value)
    )  # type: ignore[assignment]
    ranks = [Rank(False), Rank(True), Rank(False), Rank(True)]
    group._actors = SimpleNamespace(handles=ranks)  # type: ignore[assignment]
    group._parts_of = [0, 0, 1, 1]
    group._places = SimpleNamespace(dealt=lambda refs: refs, divided=lambda shards: shards)  # type: ignore[assignment]  # stands in
    group._lost, group._recoveries, group.losses = None, None, 0
    return group


@pytest.fixture
def batch() -> Batch:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    return Batch(offsets).with_column("tokens", np.arange(10, 20))


@pytest.fixture
def parts(batch: Batch) -> list[RankShard]:
    return [RankShard(batch.select(rows), [], np.array(rows)) for rows in ([0, 2], [1, 3])]


def test_each_token_gets_the_number_that_its_rank_computed(group: Any, batch: Batch, parts: list[RankShard]) -> None:
    tokens = np.arange(10, 20)
    assert group.columns(pass_for("old_logprobs"), parts, batch).tolist() == tokens.tolist()
    assert group.columns(pass_for("teacher_logprobs"), parts, batch).tolist() == (2 * tokens).tolist()
    assert group.columns(pass_for("values"), parts, batch).tolist() == (-tokens).tolist()


def test_only_the_policy_is_sent_the_engines_choice_of_experts(group: Any, batch: Batch) -> None:
    batch = batch.with_column("routed_experts", np.zeros((10, 2, 1)))
    parts = [RankShard(batch.select(rows), [], np.array(rows)) for rows in ([0, 2], [1, 3])]
    for name, sent in (("ref_logprobs", False), ("values", False), ("old_logprobs", True)):
        group.columns(pass_for(name), parts, batch)
        assert all(("routed_experts" in rank.seen) is sent for rank in group._ranks)


def test_old_log_probs_are_by_the_model_of_the_algorithm(group: Any, batch: Batch, parts: list[RankShard]) -> None:
    assert (
        group.columns(pass_for("old_logprobs", "behaviour"), parts, batch).tolist() == (3 * np.arange(10, 20)).tolist()
    )


def test_ranks_of_one_data_parallel_place_get_the_same_part(group: Any, parts: list[RankShard]) -> None:
    assert group.train_shards(parts, 7, policy=False) == {"loss": 1.0}
    assert [rank.trained[0] for rank in group._ranks] == [parts[0], parts[0], parts[1], parts[1]]
    assert {rank.trained[1:] for rank in group._ranks} == {(7, False, False)}


def test_a_rank_computes_with_its_own_threads_from_its_start_on_whoever_else_is_in_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TrainerActor, "_logs_to", lambda *_: None)
    started: list[int] = []
    monkeypatch.setattr("rlscale.data.target.instantiate", lambda *_: SimpleNamespace(start=lambda *_: None))
    monkeypatch.setattr(torch, "set_num_threads", started.append)
    run, stage = (TrainerActor("log", 0, 1, 0, threads) for threads in (2, 1))  # the stage's is made later, and ends
    spec = SimpleNamespace(trainer=SimpleNamespace(_target_="own.Trainer", arguments={}))
    stage.start(spec, "127.0.0.1", 1)
    run.start(spec, "127.0.0.1", 1)
    assert started == [1, 2]


@pytest.mark.parametrize(("ranks", "told"), [(64, 64), (65, 0)])
def test_ranks_are_asked_what_they_did_unless_there_are_more_than_lanes(ranks: int, told: int, group: Any) -> None:
    done = [("train", 1.0, 2.0)]
    group._actors.handles = [SimpleNamespace(busy=SimpleNamespace(remote=lambda: done))] * ranks
    assert group.busy() == [done] * told


def test_a_rank_writes_what_it_computed_while_it_was_profiled(group: Any, tmp_path: Path) -> None:
    """The rank is a real actor's class, called here and not through Ray."""
    actor = TrainerActor.__new__(TrainerActor)  # its own beginning sends what this process prints to a log
    actor._rank = 3
    names = ("begin_profile", "end_profile")
    group._actors.handles = [SimpleNamespace(**{name: SimpleNamespace(remote=getattr(actor, name)) for name in names})]
    with group.profiled(tmp_path / "profile", 7):
        torch.linalg.svd(torch.eye(4))
    with gzip.open(tmp_path / "profile" / "iteration_000007.rank-3.trace.json.gz") as file:
        assert "aten::linalg_svd" in {event.get("name") for event in json.load(file)["traceEvents"]}

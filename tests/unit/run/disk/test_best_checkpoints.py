"""Which checkpoints stay: the newest, and those that are the best by a metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlscale.config.schema.checkpoint_config import CheckpointConfig, Order
from rlscale.run.disk.best_checkpoints import BestCheckpoints
from rlscale.run.disk.checkpoint import CheckpointStore, groups_of
from rlscale.run.sessions.saver import SaverWithRanks
from tests.unit.run.disk.test_checkpoint import Trainer, save


def write(run: Path, *rows: dict[str, Any]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def best(run: Path, notes: list[str], **config: Any) -> BestCheckpoints:
    found = BestCheckpoints.of(CheckpointConfig(**config), run, notes.append)
    assert found is not None
    return found


def test_none_is_kept_for_being_the_best_unless_that_is_asked_for(tmp_path: Path) -> None:
    assert BestCheckpoints.of(CheckpointConfig(), tmp_path, print) is None


def test_the_highest_or_lowest_are_picked_and_the_later_of_two_alike(tmp_path: Path) -> None:
    values = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.9}
    write(tmp_path, *({"iteration": one, "reward": value, "loss": value} for one, value in values.items()))
    assert best(tmp_path, [], keep_best=1).among(values) == {4}
    assert best(tmp_path, [], keep_best=2).among(values) == {2, 4}
    assert best(tmp_path, [], keep_best=1, best_by="loss", best_is=Order.lowest).among(values) == {3}
    assert best(tmp_path, [], keep_best=1).among([1, 3]) == {1}  # of those that there are


def test_an_evaluation_counts_for_its_iteration_and_what_was_not_measured_is_not_the_best(tmp_path: Path) -> None:
    rows = [{"iteration": 10, "reward": 1.0}, {"iteration": 10, "eval/pass@1": 0.2}, {"iteration": 20, "reward": 9.0}]
    write(tmp_path, *rows, {"iteration": 30, "eval/pass@1": None})
    assert best(tmp_path, [], keep_best=2, best_by="eval/pass@1").among([10, 20, 30]) == {10}


def test_a_metric_that_nobody_writes_is_said_once_with_the_nearest(tmp_path: Path) -> None:
    notes: list[str] = []
    write(tmp_path, {"iteration": 1, "reward": 1.0})
    one = best(tmp_path, notes, keep_best=1, best_by="rewards")
    assert (one.among([1]), one.among([1])) == (set(), set())
    assert notes == ["checkpoint.best_by=rewards: no iteration has a metric of that name so far; did you mean reward?"]


def test_a_store_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    trainer: Any = Trainer()
    store = CheckpointStore(tmp_path / "checkpoints", 2, best(tmp_path, [], keep_best=1))
    saving = SaverWithRanks(store, "hash", trainer, 10.0)
    values = {1: 0.2, 2: 0.8, 3: 0.4, 4: 0.3, 5: 0.1}
    for iteration in values:
        write(tmp_path, *({"iteration": one, "reward": values[one]} for one in values if one <= iteration))
        save(saving, iteration)
    assert [path.name[-1] for path in store.whole()] == ["2", "4", "5"]


def test_a_best_checkpoint_keeps_no_journal_of_groups(tmp_path: Path) -> None:
    """A run goes on from the newest: what was finished after the best, and before those, nobody reads again."""
    trainer: Any = Trainer()
    store = CheckpointStore(tmp_path / "checkpoints", 2, best(tmp_path, [], keep_best=1))
    saving = SaverWithRanks(store, "hash", trainer, 10.0)
    values = {1: 0.9, 2: 0.1, 3: 0.1, 4: 0.1}
    write(tmp_path, *({"iteration": one, "reward": value} for one, value in values.items()))
    groups = groups_of(store.folder)
    groups.mkdir(parents=True)
    for iteration in values:
        (groups / f"{iteration:06d}-000001.groups").touch()
        save(saving, iteration)
    assert [path.name[-1] for path in store.whole()] == ["1", "3", "4"]
    assert sorted(path.name[:6] for path in groups.iterdir()) == ["000003", "000004"]

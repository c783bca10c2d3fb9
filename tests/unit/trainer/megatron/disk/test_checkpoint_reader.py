"""Megatron's way of reading a checkpoint, with readers of its own for what could be code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.disk.checkpoint_reader import read_state
from rlscale.trainer.megatron.disk.checkpoint_writer import CheckpointWriter
from rlscale.trainer.megatron.disk.code_in_checkpoint import refuse_code
from tests.unit.torchscript_archive import torchscript

RANDOM: dict[str, Any] = {
    "numpy": np.random.RandomState(1).get_state(),
    "python": (3, (1, 2)),
    "torch": torch.arange(4),
}


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    """A rank by itself."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def state(weight: torch.Tensor, random: Any) -> dict[str, Any]:
    """A tensor, an object of each rank, and a number that all have."""
    return {
        "weight": ShardedTensor.from_rank_offsets("weight", weight),
        "random": ShardedObject("random", [random], (1,), (0,), replica_id=0),
        "steps": 3,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint."""
    writer = CheckpointWriter(tmp_path / "checkpoint", state(torch.arange(6.0), RANDOM), copy=False)
    writer.write()
    writer.close()
    return tmp_path / "checkpoint"


def test_tensors_objects_and_what_all_ranks_have_are_read_by_the_index_that_was_looked_at(folder: Path) -> None:
    index = refuse_code(folder)
    (folder / ".metadata").write_bytes(b"something else since then")
    read = read_state(folder, index, state(torch.zeros(6), None))
    assert read["weight"].tolist() == [0, 1, 2, 3, 4, 5]
    assert read["random"][0]["python"] == RANDOM["python"]
    assert read["random"][0]["torch"].tolist() == [0, 1, 2, 3]
    assert read["random"][0]["numpy"][1].tolist() == RANDOM["numpy"][1].tolist()
    assert read["steps"] == 3


def test_an_object_that_became_a_program_since_it_was_looked_at_is_not_run(folder: Path, tmp_path: Path) -> None:
    index, ran = refuse_code(folder), tmp_path / "ran"
    content = torchscript(ran)
    ran.unlink(missing_ok=True)
    (key,) = (key for key in index.storage_data if key.fqn.startswith("random"))
    place = index.storage_data[key]
    with open(folder / place.relative_path, "r+b") as file:
        file.seek(place.offset)
        file.write(content)
    place.length = len(content)
    with pytest.raises(UserError, match=r"checkpoint is damaged, or rlscale did not write it \(__0_0\.distcp: "):
        read_state(folder, index, state(torch.zeros(6), None))
    assert not ran.exists()


def test_a_model_that_the_checkpoint_is_not_of_is_said_with_what_could_be_done(folder: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint does not fit this model \(.*\); do this"):
        read_state(folder, refuse_code(folder), state(torch.zeros(7), None), "; do this")

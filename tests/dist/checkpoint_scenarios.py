"""What the ranks of the checkpoint tests run; called as the functions of `scenarios` are."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scenarios import gathered, open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.run.disk.checkpoint import CheckpointStore, Progress
from rlscale.run.sessions.saver import SaverWithRanks
from rlscale.trainer.trainer_spec import TrainerSpec

_SMALLER_THAN_A_RANK = 20_000

_OF_ABSTRACT_CLASSES = ("weakref.ReferenceType", "builtins.builtin_function_or_method")
"""What they remember of every class that they are asked about: a reference and what ends it, no more than classes."""


def save_on_a_full_disk(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard], folders: list[str]
) -> list[str]:
    """Save four times, in the middle with no room for the last rank's file: what each attempt said.

    The third save writes at once, the others a copy while the training goes on.
    """
    trainer = open_trainer(rank, world_size, address, port, spec)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    said = []
    try:
        for number, folder in enumerate(folders):
            if number in (1, 2) and rank == world_size - 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (_SMALLER_THAN_A_RANK, before[1]))
            try:
                trainer.begin_save(folder, copy=number != 2)
                trainer.train_shard(parts[trainer.data_parallel_rank()], number)
                trainer.finish_save()
                said.append("")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return said
    finally:
        signal.signal(signal.SIGXFSZ, handler)
        trainer.close()


def save_until_killed(spec: TrainerSpec, parts: list[RankShard], folder: str, port: int, pipe: Any) -> None:
    """A process of its own: one whole checkpoint, then one whose writing stops in the middle of a file, for ever."""
    trainer = open_trainer(0, 1, "127.0.0.1", port, spec)
    ranks: Any = _AsGroup(trainer, stuck=2)
    saver = SaverWithRanks(CheckpointStore(Path(folder), keep=2), "hash", ranks, 60.0)
    for iteration in (1, 2):
        trainer.train_shard(parts[0], iteration)
        saver.begin(Progress(iteration=iteration), None, copy=True)
        saver.finish(wait=iteration == 1)
    trainer.train_shard(parts[0], 3)  # nothing stalls
    pipe.send(gathered(trainer))
    signal.pause()


class _AsGroup:
    """One rank as a saver sees a group. At its save number `stuck` a pipe that nobody empties takes the file."""

    losses = 0

    def __init__(self, trainer: Any, stuck: int) -> None:
        self._trainer, self._stuck, self._saves = trainer, stuck, 0

    def begin_save(self, folder: Path, copy: bool) -> None:
        """Begin to write, into the pipe if it is its turn."""
        self._saves += 1
        if self._saves == self._stuck:
            folder.mkdir()
            os.mkfifo(folder / "__0_0.distcp")
            self._pipe = os.open(folder / "__0_0.distcp", os.O_RDONLY | os.O_NONBLOCK)
        self._trainer.begin_save(folder, copy)

    def is_saved(self) -> bool:
        """Whether the only rank has written everything."""
        written: bool = self._trainer.saved()
        return written

    def finish_save(self) -> None:
        """It closes what it has written."""
        self._trainer.finish_save()

    def saved(self, checkpoint: Path) -> None:
        """Nothing is done again here."""


def load_and_save(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, source: str, target: str
) -> int:
    """Load a checkpoint and save it again, which gives the steps that it had."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.load(source)
        trainer.save(target)
        return int(trainer.steps)
    finally:
        trainer.close()


def held_after_further_saves(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, folder: str, saves: int
) -> dict[str, int]:
    """Save copies over and over: of which types there are more objects after that many than after the first two."""
    trainer = open_trainer(rank, world_size, address, port, spec)

    def save(number: int) -> None:
        trainer.begin_save(f"{folder}/{number}", copy=True)
        trainer.finish_save()

    def held() -> Counter[str]:
        gc.collect()
        return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())

    try:
        for number in range(2):  # the first imports what writes
            save(number)
        before = held()
        for number in range(2, 2 + saves):
            save(number)
        more = held() - before
        return {kind: number for kind, number in more.items() if kind not in _OF_ABSTRACT_CLASSES}
    finally:
        trainer.close()


def weights_alone(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec
) -> tuple[int, dict[str, np.ndarray]]:
    """The steps and weights that a trainer starts with."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        return trainer.steps, gathered(trainer)
    finally:
        trainer.close()


def with_layers_of_two_kinds(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, folders: list[str]
) -> list[list[str]]:
    """Save by layers like ours, load into one with a state of its own as Transformer Engine's have; and back.

    What the model would save of such state before the second save, and what of it each checkpoint has.
    """
    from torch.distributed.checkpoint import FileSystemReader

    def extra(names: Any) -> list[str]:
        return [name for name in names if "final_layernorm._extra_state" in name]

    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        (chunk,) = trainer._roster.trained("policy").model.bare
        norm = chunk.decoder.final_layernorm
        ours = type(norm)
        methods = {"get_extra_state": lambda self: torch.ones(3), "set_extra_state": lambda self, state: None}
        theirs = type("WithExtraState", (ours,), methods)
        trainer.save(folders[0])
        norm.__class__ = theirs
        trainer.load(folders[0])
        would_save = extra(chunk.sharded_state_dict())
        trainer.save(folders[1])
        norm.__class__ = ours
        trainer.load(folders[1])
        return [would_save, *(extra(FileSystemReader(f).read_metadata().state_dict_metadata) for f in folders)]
    finally:
        trainer.close()

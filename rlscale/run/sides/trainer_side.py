"""The trainer's side of a run, as a session that trains sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlscale.config.derived.needs import Pass
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard


class TrainerSide(Protocol):
    """What a session asks of its trainer."""

    losses: int
    """How often ranks were lost, and with them what they had begun to save."""

    @property
    def copies(self) -> int:
        """How many data-parallel ranks there are now, which batches are best divided for."""

    @property
    def awaits_others(self) -> bool:
        """Whether ranks are lost, and others come in their place if the run goes on."""

    def train_shards(
        self, parts: list[RankShard], version: int, *, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        """One iteration's optimizer steps; metrics of them."""

    def part_made(self) -> bool:
        """Whether the ranks made, or may have made, steps of the last iteration, of which nobody may have heard."""

    def columns(self, one: Pass, parts: list[RankShard], batch: Batch) -> NDArray[np.float32]:
        """The column of a pass for every token of a batch divided into `parts`, float32 [tokens_total]."""

    def busy(self) -> list[list[tuple[str, float, float]]]:
        """What each rank did since the last call: name, start and end (seconds since 1970); nothing of very many."""

    def profiled(self, folder: Path, iteration: int) -> AbstractContextManager[None]:
        """Every rank records what it computes in the block, and writes it into the folder."""

    def begin_save(self, folder: Path, copy: bool) -> None:
        """Save this moment into a folder; with `copy` the writing goes on in the background.

        Its errors, as those of the next two, are UserErrors; a RunFailed ends the run.
        """

    def is_saved(self) -> bool:
        """Whether every rank has written its part."""

    def finish_save(self) -> None:
        """Make what they wrote a whole."""

    def saved(self, checkpoint: Path) -> None:
        """What `begin_save` began is part of a whole checkpoint by now."""

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""

    def damaged(self, checkpoint: Path, sums: dict[str, str]) -> list[str]:
        """The files of a checkpoint whose content has another checksum."""

    def doing(self) -> str:
        """Where the ranks and the run's other processes are, for a message about who is late."""

    def call(self, method: str, *args: Any, what: str) -> list[Any]:
        """Any other method of the trainer; the answer of every rank."""

"""What a run asks of a trainer: the protocols of the class that `trainer._target_` names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rlscale.data.batches.rank_shard import RankShard
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver


class Trainer(Protocol):
    """One rank of a trainer, in a process of its own.

    It is built as `Class(spec, rank, world_size, local_rank, **trainer.arguments)`, where `spec` is a
    rlscale.trainer.trainer_spec.TrainerSpec. Except where it is said, every method is collective: all ranks are called
    with the same arguments (shards: each data-parallel rank its own). A UserError reaches the user as one line.
    """

    def start(self, address: str, port: int) -> None:
        """Meet the other ranks at rank 0's address:port and build what is trained."""

    def data_parallel_rank(self) -> int:
        """Which shard of a batch this rank computes. Not collective."""

    def train_shard(
        self, shard: RankShard, version: int, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        """All optimizer steps of one iteration; the same metrics on every rank, `steps` (made) among them.

        `version` is the weight version before these steps. `force_old` asks for the old log-probs' own pass. Without
        `policy` only the critic makes steps.
        """

    def logprobs(
        self, shard: RankShard, model: str = "policy", *, temperature: float | None = None
    ) -> NDArray[np.float32] | None:
        """Log-probs of a shard's tokens by a named model, float32 [tokens]; 0 for the first token of a row.

        `served` is the policy as engines hold it where `spec.served` is quantised.
        None on all ranks of the shard but the one that hands it out. `temperature` None is the sampling temperature.
        """

    def values(self, shard: RankShard) -> NDArray[np.float32] | None:
        """The critic's values of a shard's tokens; see `logprobs`."""

    def connect_engines(self, route: Route, receivers: Sequence[Receiver]) -> None:
        """Say which engines get the weights from now on, and which way they go there."""

    def send_weights(self, version: int) -> dict[str, float]:
        """Send the weights to the engines as `version`; numbers about it."""

    def sleep(self) -> None:
        """Give the device's memory up, for engines on the same device."""

    def wake(self) -> None:
        """Take the device's memory again."""

    def begin_save(self, folder: str | Path, copy: bool = True) -> None:
        """Save this moment into a folder that exists; with `copy` the writing may go on in the background."""

    def saved(self) -> bool:
        """Whether `finish_save` would not have to wait. Not collective."""

    def finish_save(self) -> None:
        """Wait until what `begin_save` began is written."""

    def damaged(self, folder: str | Path, sums: dict[str, str]) -> list[str]:
        """The files of a checkpoint, of this rank's share of `sums`, whose checksum is another one. Not collective."""

    def load(self, folder: str | Path, resumed: bool = True) -> None:
        """Continue from what was saved.

        Where ranks are lost in a run (`run.recover`) others load a checkpoint, are given the same shards to train on
        again, and must then be what these were. With `resumed` False it is not the run that is continued, of which
        `optim.reset_on_resume` speaks.
        """

    def export(self, folder: str | Path, model: str = "policy") -> None:
        """Write the policy (or `critic`) as a Hugging Face folder."""

    def close(self) -> None:
        """Leave the other ranks."""


class TellsParts(Trainer, Protocol):
    """What is asked besides of a trainer whose state may be saved although a step of an iteration has failed."""

    def part_made(self) -> bool:
        """Whether a step of the last iteration was begun. It is asked where `train_shard` did not come back, or raised:
        a run that continues would make those steps again. Not collective.
        """


class CopiesState(Trainer, Protocol):
    """What is asked besides of a trainer whose state is copied in memory for lost ranks (`checkpoint.in_memory`)."""

    def state_key(self) -> tuple[int, ...]:
        """Equal on ranks whose states are equal, but for what `copy_state` calls its own. Not collective."""

    def copy_state(self, share: tuple[int, int] | None) -> tuple[bytes, Any]:
        """A copy of what `begin_save` would save at this moment: what this rank has for itself, and of all else part
        number `share[0]` of `share[1]`, nothing of it with None.

        Anything that can be pickled; NumPy arrays go into the machine's memory as they are. Not collective.
        """

    def put_state(self, own: bytes, *parts: Any) -> None:
        """Be what the ranks were that the copies are of: this one, and those of its key that had all parts. Not
        collective."""


def can_copy(trainer: object) -> TypeGuard[CopiesState]:
    """Whether a trainer has these methods, also where it hands everything on to another object."""
    return all(hasattr(trainer, name) for name in vars(CopiesState) if not name.startswith("_"))

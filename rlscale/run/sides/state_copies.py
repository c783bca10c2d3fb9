"""Copies of the ranks' state in the memory of their machines, where it outlives them.

They are in Ray's object store, and this process has the references. Ranks with the same state copy a part of it each;
where such ranks are on several machines, two machines have all of it, so that the loss of one loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlscale.config.errors import UserError
from rlscale.run.processes.remote_calls import Calls, ProcessLost
from rlscale.run.processes.run_failed import RayDied
from rlscale.run.sides.rank_actors import RankActors

_UNABLE = "the trainer lacks methods of rlscale.trainer.trainer_protocol.CopiesState"
_WHAT = "copying the trainer's state"
_MACHINES = 2
"""On how many machines all of a state is, where ranks of so many have it."""
_LOSSES = 2
"""Losses of ranks that copy, without a copy between them, after which no more copies are made."""


class CopyOfNoUse(Exception):
    """Ranks did not take the copy that they were given, which is given up. Some of them may have changed by then."""


class _NothingFor(Exception):
    """There is no copy for these ranks; the message says why."""


@dataclass(frozen=True)
class _Given:
    """What one rank is given."""

    own: bytes
    parts: list[Any]


@dataclass(frozen=True)
class _Copy:
    """The state of all ranks after so many iterations."""

    done: int
    own: list[bytes]
    """Of each rank."""
    parts: list[Any]
    """References to what each rank has copied."""
    machines: Sequence[str]
    """Where they are."""
    keys: Sequence[Any]
    """By which ranks with the same state are known."""

    def given_to(self, keys: Sequence[Any], gone: Sequence[str]) -> list[_Given]:
        """What ranks with these keys are given. _NothingFor where there is nothing for them.

        They may be fewer, or more, than those that made the copy, as long as they divide the model as those did.
        """
        if set(keys) != set(self.keys):
            raise _NothingFor("as ranks of another layout have other parts of the trainer's state")
        parts = parts_for(self.keys, self.machines, gone)
        if (without := next((rank for rank, found in enumerate(parts) if found is None), None)) is not None:
            raise _NothingFor(f"as the machine with the copy of rank {without}'s state is gone")
        ranks = [[rank for rank, own in enumerate(self.keys) if own == key] for key in keys]
        before = [list(keys[:number]).count(key) for number, key in enumerate(keys)]
        chosen = [found[number % len(found)] for found, number in zip(ranks, before, strict=True)]
        return [_Given(self.own[rank], [self.parts[one] for one in parts[rank] or ()]) for rank in chosen]


class StateCopies:
    """The newest copy, of which one is made after each iteration."""

    def __init__(self, calls: Calls, note: Callable[[str], None], without: str, *, asked: bool = False) -> None:
        """`without`: what lost ranks come to while there is no copy, for a note. `asked`: somebody wants copies."""
        self._calls, self._note, self._without, self._asked = calls, note, without, asked
        self.able = True
        """Whether the trainer can copy its state, as far as is known."""
        self._keys: list[Any] = []
        self._copy: _Copy | None = None
        self._failed = False
        self._losses = 0
        """How often ranks were lost that copied, since the last copy."""
        self.why_none = "as no iteration was finished"
        """Why there is no copy to go on from."""

    def meet(self, actors: RankActors) -> None:
        """Learn which of the ranks, which have just started, have the same state.

        Without the methods for it nothing is copied, and a note says so; UserError where copies were asked for.
        """
        keys = self._calls.wait([rank.state_key.remote() for rank in actors.handles], "trainer start")
        if all(key is not None for key in keys):
            self._keys = keys
            return
        if self._asked:
            raise UserError(f"checkpoint.in_memory=true: {_UNABLE}; write them, or leave checkpoint.in_memory out")
        if self.able:
            self._note(f"{_UNABLE}: no copies of its state are made, and {self._without}")
        self.able, self.why_none = False, f"as {_UNABLE}"

    def take(self, actors: RankActors, done: int) -> None:
        """Copy the state of this moment, after so many iterations, and give the last one up.

        ProcessLost where a rank is lost; after several of these in a row nothing is copied any more. Other failures
        leave no copy at all; the first of several in a row is noted.
        """
        if not self.able:
            return
        if self._losses >= _LOSSES:
            self._give_up(f"as ranks were lost {_LOSSES} times in a row while they copied their state")
            return
        shares = shares_of(self._keys, actors.machines)
        both = [
            rank.copy_state.options(num_returns=2).remote(share)
            for rank, share in zip(actors.handles, shares, strict=True)
        ]
        try:
            own = self._calls.wait([own for own, _ in both], _WHAT)
        except UserError as error:
            if isinstance(error, RayDied):
                raise
            if isinstance(error, ProcessLost) and not error.of_memory:
                self._lose()
                raise
            self._fail(error)
            return
        self._failed, self._losses = False, 0
        self._copy = _Copy(done, own, [part for _, part in both], actors.machines, self._keys)

    def _lose(self) -> None:
        """Ranks were lost while they copied, perhaps of it: others would be, too, until no recovery is left."""
        self._losses += 1
        if self._copy is None:
            self.why_none = "as ranks were lost while they copied their state"
        if self._losses == _LOSSES:
            self._note(
                f"ranks were lost {_LOSSES} times in a row while they copied their state: no more copies are made "
                f"(checkpoint.in_memory), and {self._without}"
            )

    def _fail(self, error: UserError) -> None:
        """There is no copy of this moment, but the ranks are as they were."""
        self._give_up(f"as no copy of their state could be made: {error}")
        if not self._failed:
            self._note(f"{self._without}, {self.why_none}")
        self._failed = True

    def put(self, actors: RankActors, known_from: int) -> int | None:
        """Give the newest copy to other ranks; after how many iterations they are then. None where there is none.

        `known_from`: a copy after fewer iterations leads nowhere, as what came after it is not known any more.
        ProcessLost where a rank is lost, CopyOfNoUse where ranks did not take it.
        """
        if self._copy is not None and self._copy.done < known_from:
            self._give_up("as the checkpoint is newer than the copy of their state")
        copy = self._copy
        if copy is None:
            return None
        try:
            given = copy.given_to(self._keys, self._calls.host.gone(copy.machines))
        except _NothingFor as why:
            self._give_up(str(why))
            return None
        self._calls.host.check()
        calls = [
            rank.call.remote("put_state", one.own, *one.parts) for rank, one in zip(actors.handles, given, strict=True)
        ]
        try:
            self._calls.wait(calls, "giving ranks the state of those that were lost")
        except UserError as error:
            if isinstance(error, RayDied) or (isinstance(error, ProcessLost) and not error.from_within):
                raise
            self._give_up(f"as the copy of the trainer's state is of no use: {error}")
            raise CopyOfNoUse from error
        return copy.done

    def _give_up(self, why: str) -> None:
        self._copy, self.why_none = None, why


def shares_of(keys: Sequence[Any], machines: Sequence[str]) -> list[tuple[int, int] | None]:
    """Which part of the state of its key each rank copies, and of how many; None for a rank that need not."""
    found: list[tuple[int, int] | None] = [None] * len(keys)
    for holders in _holders(keys, machines).values():
        for ranks in holders[:_MACHINES]:
            for number, rank in enumerate(ranks):
                found[rank] = number, len(ranks)
    return found


def parts_for(keys: Sequence[Any], machines: Sequence[str], gone: Sequence[str]) -> list[list[int] | None]:
    """The ranks whose parts make the state of each rank, on machines that are there; None where there are none."""
    found: dict[Any, list[int] | None] = {}
    for key, holders in _holders(keys, machines).items():
        found[key] = next((ranks for ranks in holders[:_MACHINES] if machines[ranks[0]] not in gone), None)
    return [found[key] for key in keys]


def _holders(keys: Sequence[Any], machines: Sequence[str]) -> dict[Any, list[list[int]]]:
    """The ranks of each key, by their machines."""
    found: dict[Any, dict[str, list[int]]] = {}
    for rank, (key, machine) in enumerate(zip(keys, machines, strict=True)):
        found.setdefault(key, {}).setdefault(machine, []).append(rank)
    return {key: list(by_machine.values()) for key, by_machine in found.items()}

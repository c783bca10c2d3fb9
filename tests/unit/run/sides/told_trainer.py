"""A trainer of one rank without processes: its ranks do what they are told to a list, and die when a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.schema import Config
from rlscale.run.processes.hang_limits import HangLimits
from rlscale.run.processes.remote_calls import ProcessLost
from rlscale.run.sides import trainer_group
from rlscale.run.sides.recovery import Recoveries, RedoLog
from rlscale.run.sides.trainer_group import TrainerGroup

CHECKPOINT = Path("checkpoints/iteration_000002")


class Actors:
    """The processes of one rank, whose state is what it was told to do, and who die of some of the calls."""

    key: tuple[int, ...] | None = ()
    """What the rank says its state is known by."""

    def __init__(self, told: list[Any], dies_of: list[Any], disk: dict[Path, list[Any]]) -> None:
        self.state: list[Any] = []
        self.ended = False
        self._told, self._dies_of, self._disk = told, dies_of, disk
        rank = {name: SimpleNamespace(remote=lambda *given, name=name: self._do(name, *given)) for name in METHODS}
        rank["call"] = SimpleNamespace(remote=self._do)
        copy = SimpleNamespace(remote=lambda share: [self._do("copy_state", share), "the rest"])
        rank["copy_state"] = SimpleNamespace(options=lambda num_returns: copy)
        self.handles = [SimpleNamespace(**rank)]
        self.machines = ("here",)

    def start(self, spec: Any, timeout_s: float) -> list[int]:
        return [0]

    def _do(self, method: str, *given: Any) -> Any:
        if self.ended:  # as Ray answers who asks a process that it has ended
            return Death()
        if self._dies_of and self._dies_of[0] in (method, given[0] if given else None):
            if method == "put_state":  # some of it is there by then
                self.state = list(given[0])
            return DEATHS[self._dies_of.pop(0)]
        if any(callable(dies) and dies(method) for dies in self._dies_of):
            return Death()
        self._told.append((method, *given))
        if method == "begin_save":
            self._disk[given[0]] = list(self.state)
        if method == "load":
            self.state = list(self._disk[given[0]])
        if method == "put_state":
            self.state = list(given[0])
        if method == "train_shard":
            self.state.append(given[0])
        if method == "copy_state":
            return list(self.state)
        return {
            "busy": [("train", 1.0, 2.0)],
            "damaged": [],
            "saved": True,
            "state_key": self.key,
            "train_shard": {"loss": float(len(self.state))},
        }.get(method)

    def end(self, wait_s: float = 0.0) -> None:
        self.ended = True


METHODS = ("train_shard", "busy", "connect_engines", "begin_profile", "end_profile", "state_key")


class Death:
    """What a call of a rank that dies of it comes to."""

    def __init__(self, from_within: bool = False, of_memory: bool = False) -> None:
        self.how = {"from_within": from_within, "of_memory": of_memory}


DEATHS: dict[Any, Death | Exception] = {}


class Calls:
    """Waits for calls, which are what they come to."""

    def __init__(self) -> None:
        self.stopping = self.failed = False
        self.hang_limits = HangLimits(None, 20.0)
        self.limits: list[float | None] = []
        self.gone: list[str] = []
        self.host = SimpleNamespace(put=lambda value: value, gone=lambda machines: self.gone, check=lambda: None)

    def check_stop(self) -> None: ...

    def wait(
        self, calls: list[Any], what: str, meanwhile: Callable[[], None] | None = None, **options: Any
    ) -> list[Any]:
        self.limits.append(options.get("timeout_s"))
        if meanwhile is not None:
            meanwhile()
        for call in calls:
            if isinstance(call, Death):
                raise ProcessLost(f"{what}: the process died. See logs", calls, **call.how)
            if isinstance(call, Exception):
                raise call
        return calls


@cache
def composed(overrides: tuple[str, ...]) -> Config:
    """For many courses of the same run."""
    return compose(None, list(overrides))


class Told:
    """A trainer of one rank, what its ranks were told, and what the terminal shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        monkeypatch.setattr(trainer_group, "sums_of", lambda checkpoint: {})
        self.calls, self.notes, self.ranks, self.told, self.dies_of = Calls(), [], [], [], []
        self.disk = {CHECKPOINT / "trainer": ["saved"]}
        calls: Any = self.calls
        config = composed(overrides)
        self.recoveries = Recoveries(config, calls, self.notes.append)
        self.group = TrainerGroup.__new__(TrainerGroup)
        group: Any = self.group
        group._calls, group._recoveries = calls, self.recoveries
        places = SimpleNamespace(new_actors=self.new, told=lambda spec: spec, dealt=lambda shards: shards)
        group._places = places
        group._redo, group._lost, group._connected, group.losses = RedoLog(), None, (), 0
        group._way, group._started_by, group._parts_of = None, (None, 1.0), [0]
        group._actors = self.new()
        if self.recoveries.copies is not None:
            self.recoveries.copies.meet(group._actors)
            self.told.clear()

    def new(self) -> Any:
        self.ranks.append(Actors(self.told, self.dies_of, self.disk))
        return self.ranks[-1]

    def dies(self, *of: Any, from_within: bool = False, of_memory: bool = False) -> None:
        """Of the next calls with these methods or shards, one rank after another."""
        self.dies_of += of
        DEATHS.update({one: Death(from_within, of_memory) for one in of})

    def fails(self, method: str, error: Exception, times: int = 1) -> None:
        """The next calls of that method raise."""
        self.dies_of += [method] * times
        DEATHS[method] = error

    def train(self, *shards: Any) -> None:
        for number, shard in enumerate(shards):
            self.group.train_shards([shard], number)

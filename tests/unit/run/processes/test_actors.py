"""What the actor of a rank answers for its trainer, and when a launcher is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.run.processes.actors import TrainerActor


class Copies:
    """A trainer that can copy its state."""

    def state_key(self) -> tuple[int, ...]:
        return (3,)

    def copy_state(self, share: Any) -> Any: ...

    def put_state(self, own: bytes, *parts: Any) -> None: ...


NEEDED = ("state_key", "copy_state", "put_state")


@pytest.mark.parametrize("lacks", ["", *NEEDED])
def test_a_rank_has_a_key_where_its_trainer_has_all_that_copies_need(lacks: str) -> None:
    actor = TrainerActor.__new__(TrainerActor)
    actor._trainer = type("Made", (), {name: getattr(Copies, name) for name in NEEDED if name != lacks})()
    assert actor.state_key() == (None if lacks else (3,))


def test_a_rank_tells_once_what_it_did_and_nothing_of_calls_that_are_no_work_of_a_lane() -> None:
    actor = TrainerActor.__new__(TrainerActor)
    actor._busy = []
    actor._trainer = SimpleNamespace(
        train_shard=lambda *_: {"loss": 0.1}, send_weights=lambda version: version, saved=lambda: True
    )
    assert actor.train_shard(None, 1, False, True) == {"loss": 0.1}
    assert actor.call("send_weights", 2) == 2
    assert actor.call("saved")
    told = actor.busy()
    assert [name for name, _, _ in told] == ["train", "sync"]
    assert all(0 < start <= end for _, start, end in told)
    assert actor.busy() == []


LAUNCHER = """
import os, sys
from rlscale.run.processes.actors import LauncherActor

said = os.dup(1)
launcher = LauncherActor("launcher-0.log", sys.argv[1], sys.argv[1], "key", "127.0.0.1", None, {}, 20.0)
imported = [name in sys.modules for name in ("rlscale.serve.server_spec", "rlscale.serve.supervisor")]
os.write(said, f"{imported} {launcher.call('dead')}".encode())
"""


def test_a_launcher_is_there_before_it_has_imported_what_it_supervises_with(tmp_path: Path) -> None:
    """One that is stopped before it can be asked which process it is was waited for for minutes."""
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    assert subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True).stdout == b"[True, False] []"

"""A deadline: who waits for whom, and what they do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from rlscale.run.processes.actor_host import RayActors
from rlscale.run.processes.remote_calls import Calls, ProcessLost
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopSignal


@pytest.mark.parametrize("told", [{"rank 1": "recv (peer.py:7)", "rank 0": "all_reduce (peer.py:9)"}, {}])
def test_a_deadline_names_who_is_late_and_what_each_process_does(
    told: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(refs: list[Any], _: float) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref == "there"], [ref for ref in refs if ref != "there"]

    host = RayActors()
    monkeypatch.setattr(host, "wait", wait)
    monkeypatch.setattr(host, "get", lambda ref: ref)
    waiting = Calls(StopSignal(), 5.0, str(tmp_path), 20.0, host)
    monkeypatch.setattr(waiting.processes, "write_stacks", lambda folder: told)
    with pytest.raises(RunFailed) as caught:
        waiting.wait(["there", "late"], "training step", timeout_s=0.01)
    late = "training step did not finish within 0 s (cluster.call_timeout_s): waiting for rank 1, the others are done. "
    doing = f"rank 0 is in all_reduce (peer.py:9); rank 1 is in recv (peer.py:7). See {tmp_path / 'hang'}"
    assert str(caught.value) == late + (doing if told else f"See {tmp_path}")


def failing(errors: list[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFailed:
    """What becomes of calls that end with these errors, of which that of the first is seen first."""

    def get(ref: int) -> None:
        raise errors[ref]

    host = RayActors()
    monkeypatch.setattr(host, "wait", lambda refs, _: (refs, []))
    monkeypatch.setattr(host, "get", get)
    with pytest.raises(RunFailed) as caught:
        Calls(StopSignal(), 5.0, str(tmp_path), 20.0, host).wait(list(range(len(errors))), "training step")
    return caught.value


def raised(cause: Exception) -> RayTaskError:
    return RayTaskError("train_shard", f"Traceback\n{cause}", cause)


GLOO = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9"
)


def raised_by(what: Callable[[int], Any], argument: int) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        what(argument)
    return caught.value


@pytest.mark.parametrize(
    "cause",
    [
        GLOO,
        torch.OutOfMemoryError("CUDA out of memory"),
        raised_by(torch.empty, 2**50),
        raised_by(np.empty, 2**50),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_a_call_that_wants_memory_or_others_to_talk_to_has_lost_its_process(
    cause: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = failing([raised(cause)], tmp_path, monkeypatch)
    assert isinstance(lost, ProcessLost)
    assert (lost.from_within, lost.of_memory) == (True, cause is not GLOO)
    assert lost.brief.startswith(f"training step failed: {type(cause).__name__}: ")


def test_what_raises_since_another_died_is_told_by_the_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = failing([raised(GLOO), ActorDiedError()], tmp_path, monkeypatch)
    assert isinstance(lost, ProcessLost)
    assert (lost.brief, lost.from_within) == ("training step: the process died", False)


def test_a_process_that_ray_ended_for_want_of_memory_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = failing([OutOfMemoryError("the node is low on memory")], tmp_path, monkeypatch)
    assert isinstance(lost, ProcessLost)
    assert (lost.brief, lost.from_within) == ("training step: the process died", False)
    assert isinstance(failing([raised(KeyError("x")), OutOfMemoryError("")], tmp_path, monkeypatch), ProcessLost)


def test_an_error_of_the_code_loses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cause in (KeyError("loss"), RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "no such file")):
        assert not isinstance(failing([raised(cause)], tmp_path, monkeypatch), ProcessLost)

"""Calls that are back at a moment, by a clock that goes a second on at each poll."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.run.processes.actor_host import RayActors
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopSignal


def played_calls(stop: StopSignal, now: list[float], logs: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every call is the moment at which it is back, and its own result. `now`: the seconds of the clock."""
    host = RayActors()

    def wait(refs: list[float], _: float) -> tuple[list[float], list[float]]:
        now[0] += 1.0
        return [ref for ref in refs if now[0] >= ref], [ref for ref in refs if now[0] < ref]

    monkeypatch.setattr(host, "wait", wait)
    monkeypatch.setattr(host, "clock", lambda: now[0])
    monkeypatch.setattr(host, "get", lambda ref: ref)
    calls = Calls(stop, 1000.0, str(logs), 2.0, host, hang_factor=10.0)
    monkeypatch.setattr(calls.processes, "write_stacks", lambda folder: {})
    return calls

"""A deadline: who waits for whom, and what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlscale.run.actor_host import RayActors
from rlscale.run.remote_calls import Calls, RunFailed
from rlscale.run.stop_signal import StopSignal


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

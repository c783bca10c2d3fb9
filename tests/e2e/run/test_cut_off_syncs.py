"""A sync that is cut off at any stage: the run recovers or stops with one line, and no engine serves a mixture."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shared_server import SharedServer

from tests.e2e.run.command import SHORT, metrics, only_run, run, summary
from tests.e2e.run.cutting_transport import FLIPPED, STAGES
from tests.e2e.run.stopping_transport import HELD, STOPPED, sums_of

pytestmark = pytest.mark.timeout(300)


def test_engines_killed_at_each_stage_of_a_sync_in_waves_and_a_rank_come_back_and_a_flipped_checksum_ends_the_run(
    ready: list[str], tmp_path: Path
) -> None:
    """Two of three engines get the weights at once: the other of the two is in the middle when one is killed.

    After every version each engine is asked for the checksum of every tensor that it holds (`weights.verify_tensors`).
    """
    shutil.copy(Path(__file__).with_name("cutting_transport.py"), tmp_path)
    ended = run(
        tmp_path, "recipe=arithmetic_async", *SHORT, *ready, "eval.enabled=false", "run.iterations=7",
        "rollout.engines=3", "cluster.max_engines=3", "weights.max_engines_at_once=2", "weights.bucket_mb=1",
        "weights.transport._target_=cutting_transport.CuttingTransport", "weights.verify_tensors=1",
        "cluster.engine_restarts=6", "rollout.max_response_tokens=100", "rollout.max_failure_rate=0.9",
    )  # fmt: skip
    assert ended.code == 2, ended.text
    back = [line for line in ended.text.splitlines() if "is back with the current weights" in line]
    assert len(back) == len(STAGES), ended.text
    assert ended.text.count("the trainer's ranks are back") == 1
    assert "did not take the weights" in ended.text
    assert "the bucket was damaged on its way" in ended.text
    assert "Traceback" not in ended.text
    folder = only_run(tmp_path)
    rows = metrics(folder)
    assert [row["iteration"] for row in rows] == list(range(1, FLIPPED + 1)), "the last one was trained and saved"
    assert {row["sync_waves"] for row in rows[:-1]} == {2.0}
    assert "sync_waves" not in rows[-1]
    assert summary(folder)["logprob_diff_max"] < 1e-4
    assert summary(folder)["canary_diff_max"] < 1e-4


def test_a_rank_that_is_stopped_in_the_middle_of_a_sync_ends_the_run_and_the_engine_has_nothing_of_that_version(
    short: list[str], shared_server: SharedServer, tmp_path: Path
) -> None:
    shutil.copy(Path(__file__).with_name("stopping_transport.py"), tmp_path)
    ended = run(
        tmp_path, *short, "eval.enabled=false", "run.iterations=9", "run.recover=none", "weights.bucket_mb=1",
        "weights.transport._target_=stopping_transport.StoppingTransport",
    )  # fmt: skip
    assert ended.code == 2, ended.text
    assert "rank 0" in ended.text
    assert "has been stopped for" in ended.text
    assert "Traceback" not in ended.text
    *whole, cut_off = metrics(only_run(tmp_path))
    assert len(whole) == STOPPED - 1
    assert "sync_seconds" in whole[-1]
    assert "sync_seconds" not in cut_off
    assert sums_of(shared_server.receiver()) == (tmp_path / HELD).read_text()

"""A recipe on engines without a model, in one process: it trains without SGLang, and a call that hangs is told."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.run.command import SHORT, metrics, run

JUDGES = """
import asyncio

calls = []


async def judge(response, label, info):
    calls.append(label)
    if len(calls) > 32:
        await asyncio.Event().wait()
    return float(len(calls) % 3)
"""
"""What judges two iterations, and nothing of the third."""


def test_two_iterations_are_trained_on_and_the_deadline_of_a_third_says_where_everything_waits(
    tmp_path: Path, warm: str
) -> None:
    (tmp_path / "judging.py").write_text(JUDGES)
    given = ["reward=custom", "reward.function._target_=judging.judge", "reward.timeout_s=100", "checkpoint.every=0"]
    debugged = ["debug=simulated_engines", "run.in_process=true", "run.iterations=3", "cluster.call_timeout_s=8"]
    ended = run(tmp_path, *SHORT, *given, *debugged, "run.output=out", warm)
    assert ended.code == 2, ended.text
    lines = metrics(tmp_path / "out")
    assert [line["iteration"] for line in lines] == [1, 2]
    assert all(line["grad_norm"] > 0 and line["response_length"] > 1 for line in lines)
    last = ended.text.strip().splitlines()[-1]
    assert "did not finish within 8 s (cluster.call_timeout_s)" in last
    assert "the rollout service is in " in last
    assert "scheduler.py:" in last
    written = {file.stem: file.read_text() for file in (tmp_path / "out" / "logs" / "hang").iterdir()}
    assert written.keys() >= {"tasks-of-the-run", "threads-of-the-run", "engine-0", "router"}
    assert 'judging.py", line 10 in judge' in written["tasks-of-the-run"]
    assert "rlscale/serve/simulator" in written["engine-0"]

"""An agent that somebody else wrote, from the package index, trains in a run that it knows nothing of."""

from __future__ import annotations

from pathlib import Path

from rlscale.data.stored_rollouts import StoredRollouts
from tests.e2e.run.command import SHORT, metrics, run, summary

PROGRAM = Path(__file__).with_name("published_agent.py")


def test_smolagents_agent_is_trained_on_what_it_asked(tmp_path: Path, shared: list[str], outside_python: str) -> None:
    agent = [f'agent.command="{outside_python} {PROGRAM}"', "rollout.tool_parser=qwen25"]
    small = ["rollout.groups_per_iteration=1", "rollout.samples_per_group=2", "rollout.max_turn_tokens=8"]
    room = ["rollout.max_prompt_tokens=400", "rollout.max_response_tokens=32"]
    quiet = ["eval.enabled=false", "checkpoint.every=0", "run.output=run", "run.iterations=1", "rollout.store=all"]
    ended = run(tmp_path, "recipe=arithmetic", *SHORT, *agent, *small, *room, *quiet, *shared)
    assert ended.code == 0, ended.text
    (line,) = metrics(tmp_path / "run")
    # It asks with its tool, is told that this was no call, and asks without tools, which is another segment.
    assert line["turns"] == line["segments"] == 2
    assert line["segment_duplication"] > 1
    assert 0 < line["observed_share"] < 1
    assert 0 <= line["reward"] <= 1
    samples = [sample for group in StoredRollouts(tmp_path / "run", "").groups(1) for sample in group.samples]
    assert all(0 < sample.loss_mask.sum() <= 16 for sample in samples)
    assert [sample.info["tools"] for sample in samples] == [["add", "final_answer"]] * 2
    report = (tmp_path / "run" / "report.html").read_text()
    for shown in ("2 turns", "Segment 2", "Turn 2", "masked", "add&quot;, &quot;final_answer"):
        assert shown in report
    made = summary(tmp_path / "run")
    assert made["status"] == "finished"
    assert 0 < made["logprob_diff_max"] < 1e-4

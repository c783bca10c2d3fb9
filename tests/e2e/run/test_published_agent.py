"""An agent that somebody else wrote, from the package index, trains in a run that it knows nothing of."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from rlscale.data.duplication import duplication
from rlscale.data.stored.stored_rollouts import StoredRollouts
from tests.e2e.run.command import SHORT, metrics, run, summary

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
HERE = Path(__file__).parent
# A model that can read what such an agent says: its own engine, since the session's knows digits only.
RECIPE = """
defaults:
  - arithmetic
  - _self_
model:
  chat_template: {template}
  create:
    characters: {characters}
    architecture:
      max_position_embeddings: 1024
agent:
  command: {command}
rollout:
  tool_parser: qwen25
  max_turn_tokens: 8
  max_prompt_tokens: 800
  max_response_tokens: 64
  store: all
eval:
  enabled: false
"""
SMALL = ("rollout.groups_per_iteration=1", "rollout.samples_per_group=2", "run.iterations=1", "checkpoint.every=0")


def test_smolagents_agent_is_trained_on_what_it_asked(tmp_path: Path, warm: str, outside_python: str) -> None:
    command = shlex.join([outside_python, str(HERE / "published_agent.py")])
    named = {"template": str(HERE / "names_tools.jinja"), "characters": CHARACTERS, "command": command}
    recipe = RECIPE.format(**{name: json.dumps(value) for name, value in named.items()})
    (tmp_path / "published.yaml").write_text(recipe)
    ended = run(tmp_path, "recipe=published.yaml", *SHORT, *SMALL, "run.output=run", warm)
    assert ended.code == 0, ended.text
    (line,) = metrics(tmp_path / "run")
    # It is told that what it said calls no tool, tries again, and is asked for an answer without tools: a new segment.
    assert (line["turns"], line["segments"], line["failed_rewards"]) == (3, 2, 0)
    assert 0 < line["observed_share"] < 1
    assert 0 <= line["reward"] <= 1
    samples = StoredRollouts(tmp_path / "run", "").groups(1)[0].samples
    # Nothing but what both segments begin with is read twice: the second has a system message of its own.
    assert line["segment_duplication"] == pytest.approx(duplication(samples), rel=1e-6)
    for sample in samples:
        assert sample.info["duplication"] == pytest.approx(duplication([sample]), abs=1e-3)
        assert 3 <= sample.loss_mask.sum() <= 3 * 8
        assert set(sample.versions[sample.loss_mask].tolist()) == {0}
        assert np.all(sample.rollout_logprobs[sample.loss_mask] < 0)
        assert (sample.info["tools"], sample.info["repeated_calls"]) == (["add", "final_answer"], 0)
    made = summary(tmp_path / "run")
    assert made["status"] == "finished"
    assert 0 < made["logprob_diff_max"] < 1e-4
    report = (tmp_path / "run" / "report.html").read_text()
    for shown in ("3 turns", "<h3>Segment 2</h3>", "Turn 3", "tokens, masked", "<dt>tools</dt>", "New task:\n"):
        assert shown in report

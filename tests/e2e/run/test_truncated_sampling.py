"""Training on what temperature, top-p and top-k left to sample from, by source, and on the engine's likeliest words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.run.command import SHORT, metrics, only_run, run

pytestmark = pytest.mark.timeout(300)

REWARD = "def varied(response, label, info):\n    return sum(map(ord, response)) % 8 / 8\n"
"""A reward that tells the samples of a model apart that cannot calculate yet."""


def test_log_probs_are_those_among_the_words_that_were_left(ready: list[str], tmp_path: Path) -> None:
    (tmp_path / "varied.py").write_text(REWARD)
    given = ["reward=custom", "reward.function._target_=varied.varied", "checkpoint.every=0", "eval.enabled=false"]
    given += ["algo.steps_per_iteration=2", "rollout.top_p=0.9", "rollout.top_k=8"]
    given += ["data=mixture", "data@data.sources.few.data=arithmetic", "data@data.sources.all.data=arithmetic"]
    given += ["data.sources.all.top_p=1", "data.sources.all.top_k=-1", "data.sources.all.temperature=0.8"]
    given += ["algo/correction=score_centering", "algo.correction.score_centering=8"]
    ended = run(tmp_path, *SHORT, *given, *ready)
    assert ended.code == 0, ended.text
    lines = metrics(only_run(tmp_path))
    assert [line["iteration"] for line in lines] == [1, 2]
    for line in lines:
        assert (line["steps"], line["skipped_steps"]) == (2, 0)
        assert line["grad_norm"] > 0
        assert line["ratio_max_first_step"] == 1.0
        assert line["ppo_kl_first_step"] == 0.0
        assert line["source/few/groups"] == line["source/all/groups"] == 2
        # At the temperature of one source those of the other would be too low or too high by tenths.
        # Of the full softmax those of one source would differ by -log 0.9 and more, and so would those of the other
        # among the words that were not left out there.
        assert 0 < line["logprob_diff_max"] < 1e-4
        # The engine's likeliest words, as it sees them and as the trainer does: eight are all that were left of one
        # source, and not all of the other. Where a log-prob were another word's, or of all words, they would be apart.
        assert 0 < line["centering_gap_first_step"] < 1e-5
        assert 0.01 < line["centering_tail"] < 1

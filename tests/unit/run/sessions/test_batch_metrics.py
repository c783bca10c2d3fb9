"""Numbers about the samples of an iteration, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.data.batches.batch import Batch
from rlscale.data.sample import Group, Prompt, Sample, Segment
from rlscale.run.sessions.batch_metrics import batch_metrics

PROMPT = Prompt(0, "0", np.arange(2, dtype=np.int32), "")


def sample(mask: str, *later: Segment) -> Sample:
    """One whose tokens were generated where `mask` has an x; the first two are the prompt."""
    flags = np.array([sign == "x" for sign in mask])
    n = len(mask)
    return Sample(
        0, 0, np.zeros(n, np.int32), 2, flags, np.zeros(n, np.float32), np.where(flags, 0, -1).astype(np.int32),
        reward=1.0, later_segments=later,
    )  # fmt: skip


def metrics(*samples: Sample) -> dict[str, float]:
    groups = [Group(PROMPT, list(samples))]
    return batch_metrics(groups, Batch.from_groups(groups), rewarded=True)


def test_turns_segments_and_what_was_shown() -> None:
    # Two turns of 2 and 1 with 3 tokens shown between them; and a turn of 2, then a segment of 3 + 1.
    found = metrics(sample("..xx...x"), sample("..xx...x", Segment(4, 3)))
    assert found["turns"] == 2
    assert found["turns_max"] == 2
    assert found["segments"] == 1.5
    assert found["observed_share"] == pytest.approx(1 - 6 / (6 + 3))
    # Tokens are the same everywhere: the second sample's first segment, of 4, is all that differs in it.
    assert found["segment_duplication"] == pytest.approx((8 + 8) / (8 + 4))
    edited = sample("..xx...x", Segment(4, 3))
    edited.tokens[4:] = [0, 0, 7, 8]  # begins like the first segment, and goes on otherwise
    assert metrics(edited)["segment_duplication"] == pytest.approx(8 / 6)


def test_single_turns_say_nothing_of_turns() -> None:
    assert not {"turns", "segments", "observed_share"} & set(metrics(sample("..xx"), sample("..x")))


def test_parts_of_rewards_and_crashes_are_metrics() -> None:
    infos = [
        {"reward_parts": {"form": 1.0, "answer": 0.0}},
        {"reward_parts": {"form": 0.5}},
        {"reward_crash": "it hung"},
    ]
    samples = [sample("..xx") for _ in infos]
    for one, info in zip(samples, infos, strict=True):
        one.info = info
    found = metrics(*samples)
    assert {name: value for name, value in found.items() if name.startswith("reward_")} | {"reward_std": 0.0} == {
        "reward_part/form": 0.75, "reward_part/answer": 0.0, "reward_crashes": 1.0, "reward_std": 0.0,
    }  # fmt: skip
    assert not {"reward_crashes", "reward_part/form"} & set(metrics(sample("..xx")))


def test_difficulty_is_the_mean_over_prompts_that_have_one() -> None:
    groups = [
        Group(Prompt(index, "", np.arange(2, dtype=np.int32), "", info, source=source), [sample("..xx")])
        for index, (info, source) in enumerate([({"difficulty": 3}, "a"), ({"difficulty": 4}, "b"), ({}, "b")])
    ]
    found = batch_metrics(groups, Batch.from_groups(groups), rewarded=True)
    assert (found["difficulty"], found["source/a/difficulty"], found["source/b/difficulty"]) == (3.5, 3.0, 4.0)
    assert "difficulty" not in metrics(sample("..xx"))

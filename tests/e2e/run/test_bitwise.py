"""Trainer and engine agree bit for bit, and a rollout repeats, whatever it is computed beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.data.rollout_file import read_groups
from tests.e2e.run.command import SHORT, metrics, run

pytestmark = pytest.mark.timeout(300)

REWARD = "def varied(response, label, info):\n    return sum(map(ord, response)) % 8 / 8\n"
"""A reward that tells the samples of a model apart that cannot calculate yet."""

ASKED = ("run.bitwise=true", "checkpoint.every=0", "eval.enabled=false", "rollout.store=all", "reward=custom")

LAYOUTS = {
    "one rank, one engine": (),
    "two of each, other batches": (
        *("parallel.data=2", "rollout.engines=2", "trainer.max_tokens_per_microbatch=64", "rollout.max_concurrent=3"),
    ),
}


def rollouts(folder: Path) -> list[tuple[list[int], list[float]]]:
    """Tokens and the engine's log-probs of what was sampled in the first iteration."""
    groups = read_groups(folder / "rollouts" / "iteration_000001.parquet")
    return [(sample.tokens.tolist(), sample.rollout_logprobs.tolist()) for group in groups for sample in group.samples]


def test_log_probs_are_equal_bit_for_bit_and_the_same_in_every_layout(ready: list[str], tmp_path: Path) -> None:
    (tmp_path / "varied.py").write_text(REWARD)
    seen = []
    for number, layout in enumerate(LAYOUTS.values()):
        given = (*ASKED, "reward.function._target_=varied.varied", f"run.output=run{number}", *layout)
        ended = run(tmp_path, *SHORT, *given, *ready)
        assert ended.code == 0, ended.text
        for line in metrics(tmp_path / f"run{number}"):
            assert line["logprob_diff_tokens"] > 0
            assert line["mismatch_abs_max"] == line["logprob_diff_max"] == line["logprob_diff_mean"] == 0.0
            assert line["ratio_max_first_step"] == 1.0
            assert line["grad_norm"] > 0
        seen.append(rollouts(tmp_path / f"run{number}"))
    assert len(seen[0]) == 16
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "given",
    [
        ("model=tiny_qwen3_moe", "model.dtype=bfloat16"),
        ("rollout.weights=int4", "trainer.fake_quant=true", "parallel.pipeline=2"),
    ],
    ids=["a mixture in 16 bits", "quantised engines, two stages"],
)
def test_so_they_are_in_other_forms(given: tuple[str, ...], ready: list[str], tmp_path: Path) -> None:
    (tmp_path / "varied.py").write_text(REWARD)
    asked = (*ASKED, "reward.function._target_=varied.varied", "run.output=run", *given)
    ended = run(tmp_path, *SHORT, *asked, *ready)
    assert ended.code == 0, ended.text
    for line in metrics(tmp_path / "run"):
        assert line["logprob_diff_tokens"] > 0
        assert line["mismatch_abs_max"] == line["logprob_diff_max"] == 0.0
        assert line["ratio_max_first_step"] == 1.0

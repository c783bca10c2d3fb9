"""What a smoke test trains on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.run import execute
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.stop_signal import StopRequested
from rlscale.run.sides.batching import build_batch, divide
from rlscale.run.smoke_groups import longest_groups
from rlscale.trainer.preparation import prepare


@pytest.mark.parametrize("parallel", [["parallel.data=2"], ["parallel.pipeline=2"]])
def test_every_micro_batch_that_a_rank_has_at_once_is_filled_with_the_longest_samples(parallel: list[str]) -> None:
    words = ["rollout.max_prompt_tokens=10", "rollout.max_response_tokens=20", "rollout.samples_per_group=4"]
    config = compose(None, [*words, "trainer.max_tokens_per_microbatch=95", *parallel])
    config = replace(config, algo=replace(config.algo, steps_per_iteration=1))
    groups = longest_groups(config, 50)
    samples = [sample for group in groups for sample in group.samples]
    assert {(len(sample.tokens), sample.prompt_length) for sample in samples} == {(30, 10)}
    assert len(samples) == 12, "three a micro-batch, two for each rank or stage"
    assert max(sample.tokens.max() for sample in samples) < 50
    assert len({sample.reward for sample in samples}) == 12, "advantages that are not zero"
    shards, _ = divide(build_batch(groups, config), config)
    filled = {int(shard.batch.lengths[rows].sum()) for shard in shards for step in shard.steps for rows in step}
    assert filled == {90}


def test_samples_name_the_words_that_an_engine_would() -> None:
    words = ["algo/correction=score_centering", "algo.correction.score_centering=6", "rollout.max_prompt_tokens=10"]
    for sampling, width in (("rollout.top_k=4", 4), ("rollout.top_p=0.9", 50), ("rollout.top_k=-1", None)):
        config = compose(None, [*words, sampling])
        sample = longest_groups(config, 50)[0].samples[0]
        named, drawn = sample.columns["sampler_words"], sample.tokens[10:]
        among = min(6, width or 50)
        assert named.shape == (len(sample.tokens), 6)
        assert [len({*row} - {-1}) for row in named.tolist()] == [0] * 10 + [among] * len(drawn)
        assert (named[10:, 0] == drawn).all()
        assert 0 < np.exp(sample.columns["sampler_logprobs"])[10:, :among].sum(1).max() < 1
        support = sample.columns.get("sampling_support")
        assert (None if support is None else support.shape[1]) == width
        if support is not None:
            assert (support[10:, :among] == named[10:, :among]).all()
        batch = build_batch(longest_groups(config, 50), config).with_column("version", 0)
        prepare(batch, config.algo, max_response_tokens=config.rollout.max_response_tokens)


def test_a_stop_while_the_ranks_of_a_smoke_test_start_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> int:
        raise StopRequested

    monkeypatch.setattr("rlscale.run.smoke.smoke", stopped)
    words = ["run.smoke=true", "run.in_process=true", f"run.scratch={tmp_path / 'scratch'}"]
    monkeypatch.setattr(execute, "warm_forks", lambda _: Forks())
    assert execute.execute(compose(None, words)) == 130


def test_a_smoke_test_of_a_run_that_trains_nothing_is_refused() -> None:
    words = ["run.generate_only=true", "rollout.store=all", "eval.enabled=false", "warm_start=null", "run.smoke=true"]
    with pytest.raises(ConfigError, match=r"run.smoke=true: nothing is trained with run.generate_only=true"):
        check(compose(None, words))

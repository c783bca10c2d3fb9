"""What a smoke test trains on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.run.sessions.batching import build_batch, divide
from rlscale.run.smoke_groups import longest_groups


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


def test_a_smoke_test_of_a_run_that_trains_nothing_is_refused() -> None:
    words = ["run.generate_only=true", "rollout.store=all", "eval.enabled=false", "warm_start=null", "run.smoke=true"]
    with pytest.raises(ConfigError, match=r"run.smoke=true: nothing is trained with run.generate_only=true"):
        check(compose(None, words))

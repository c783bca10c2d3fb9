"""Overlong shaping against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.config.schema.algo_config import OverlongConfig
from rlscale.data.sample import Prompt, Sample
from rlscale.envs.overlong import OverlongShaping, overlong_penalty


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0.0), (15, 0.0), (16, 0.0), (17, -0.25), (18, -0.5), (19, -0.75), (20, -1.0), (21, -1.0), (400, -1.0)],
)
def test_the_penalty_grows_linearly_over_the_last_tokens_before_the_limit(length: int, expected: float) -> None:
    assert overlong_penalty(length, limit=20, cache=4) == expected


def test_the_penalty_has_the_numbers_of_its_paper() -> None:
    # DAPO: at most 20480 tokens, of which the last 4096 are the punishment's.
    lengths = [16384, 17408, 18432, 20480, 20481]
    assert [overlong_penalty(length, 20480, 4096) for length in lengths] == [0.0, -0.25, -0.5, -1.0, -1.0]


def test_a_cache_as_long_as_the_limit_penalises_every_token() -> None:
    assert [overlong_penalty(length, 4, 4) for length in (0, 1, 4)] == [0.0, -0.25, -1.0]


@pytest.mark.parametrize("cache", [0, -1, 21])
def test_a_cache_outside_the_response_is_refused(cache: int) -> None:
    with pytest.raises(ValueError, match="must be from 1 to the limit of 20"):
        overlong_penalty(5, 20, cache)


def response(length: int) -> Sample:
    prompt = Prompt(0, "0", np.arange(50, dtype=np.int32), None)
    return Sample.from_response(prompt, 0, np.zeros(length, np.int32), None, 0)


def test_shaping_counts_response_tokens_and_multiplies_by_the_penalty() -> None:
    shaping = OverlongShaping.of(OverlongConfig(penalty=0.5, cache_tokens=4), 20)
    assert shaping is not None
    assert [shaping(response(length)) for length in (16, 18, 20)] == [0.0, -0.25, -0.5]


def test_what_the_policy_was_shown_is_not_its_own_length() -> None:
    """Eighteen tokens after the prompt, of which a tool wrote ten."""
    shaping = OverlongShaping.of(OverlongConfig(penalty=1.0, cache_tokens=4), 20)
    assert shaping is not None
    sample = response(18)
    sample.loss_mask[-14:-4] = False
    assert (sample.response_length, sample.continuation_length) == (8, 18)
    assert shaping(sample) == 0.0


@pytest.mark.parametrize(("limit", "cache"), [(1024, 204), (10, 2), (4, 1), (1, 1)])
def test_a_fifth_of_the_limit_is_penalised_unless_said_otherwise(limit: int, cache: int) -> None:
    assert OverlongShaping.of(OverlongConfig(penalty=1.0), limit) == OverlongShaping(limit, cache, 1.0)


def test_without_a_penalty_nothing_is_shaped() -> None:
    assert OverlongShaping.of(OverlongConfig(), 20) is None

"""The seed of every request."""

from __future__ import annotations

from rlscale.rollout.seeds import request_seed


def test_seeds_are_stable_numbers_of_31_bits() -> None:
    # Written down: a change would break the repetition of every earlier run.
    assert request_seed(0, 0, 0) == 685561823
    seeds = {request_seed(0, prompt, sample) for prompt in range(100) for sample in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_differ_by_run_turn_and_stream() -> None:
    assert len({request_seed(1, 2, 3), request_seed(2, 2, 3), request_seed(1, 2, 3, 1)}) == 3
    assert request_seed(1, 2, 3) != request_seed(1, 2, 3, stream="eval")

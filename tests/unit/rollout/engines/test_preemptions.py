"""What an answer tells of preemptions."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.rollout.engines.preemptions import Preemptions, preemptions_of


@pytest.mark.parametrize(
    ("retractions", "versions", "preemptions"),
    [
        (0, [3, 3], 0),
        (2, [3, 3], 2),
        (1, [3, 4], 0),  # the pause for version 4
        (2, [3, 4], 1),
        (0, [3, 5], 0),  # it waited in the queue when the weights came
        (1, [], 1),
        (None, [3], 0),
    ],
)
def test_a_pause_for_new_weights_is_none(retractions: int | None, versions: list[int], preemptions: int) -> None:
    assert preemptions_of({"num_retractions": retractions}, np.array(versions, np.int32)) == preemptions


def test_requests_are_taken_once_and_those_that_began_before_are_left_out() -> None:
    found, versions = Preemptions(), np.zeros(4, np.int32)
    for began, retractions in ((1.0, 1), (2.0, 3), (2.5, 0), (3.0, 1)):
        found.answered(began, {"num_retractions": retractions}, versions)
    assert found.requests == 3
    assert found.take(2.0) == 2
    assert found.take(0.0) == 0

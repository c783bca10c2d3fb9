"""What a request says of the weights that it needs, and what an engine makes of it."""

from __future__ import annotations

import pytest

from rlscale.config.derived.needed_weights import NeededWeights, fields_of, refusal


@pytest.mark.parametrize(
    ("needed", "held", "refused"),
    [
        (NeededWeights(4), "3", True),
        (NeededWeights(4), "4", False),
        (NeededWeights(4), "5", False),
        (NeededWeights(4, exactly=True), "3", True),
        (NeededWeights(4, exactly=True), "4", False),
        (NeededWeights(4, exactly=True), "5", True),
        (NeededWeights(0), "default", True),
        (NeededWeights(0), "9" * 5000, True),
        (NeededWeights(0), "\u00b2", True),
        (NeededWeights(-1, exactly=True), "default", False),
    ],
)
def test_an_engine_refuses_exactly_what_it_has_no_weights_for(needed: NeededWeights, held: str, refused: bool) -> None:
    reasons = [refusal(field, version, held) for field, version in fields_of(needed.headers).items()]
    assert any(reasons) == refused

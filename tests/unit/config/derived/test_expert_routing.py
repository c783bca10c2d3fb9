"""What rooms share about mixtures of experts."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.config.derived.expert_routing import load_balancing


def test_types_of_load_balancing_come_with_their_coefficients() -> None:
    assert load_balancing("aux_loss", 1e-3) == [("aux_loss", 1e-3)]
    assert load_balancing(["aux_loss", "global_aux_loss"], [1, 2]) == [("aux_loss", 1), ("global_aux_loss", 2)]


@pytest.mark.parametrize(
    ("kinds", "coefficients"),
    [("aux_loss", [1e-3]), (["aux_loss"], 1e-3), (["aux_loss"], [1, 2]), (["aux_loss", "aux_loss"], [1, 2]), ([], [])],
)
def test_types_and_coefficients_that_do_not_fit_are_refused(kinds: Any, coefficients: Any) -> None:
    with pytest.raises(ValueError, match="load balancing"):
        load_balancing(kinds, coefficients)

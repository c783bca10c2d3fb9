"""What a router is told of several engines beside each other."""

from __future__ import annotations

import pytest

from rlscale.serve.http import CallError
from rlscale.serve.router import at_once


def test_after_an_error_of_one_engine_the_router_has_been_told_of_all_the_others() -> None:
    told = []

    def tell(number: int) -> None:
        if not number:
            raise CallError("refused")
        told.append(number)

    with pytest.raises(CallError, match="refused"):
        at_once(tell, range(500))
    assert sorted(told) == list(range(1, 500))

"""Who watches a sync, and what of engines and the router ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.run.sides import weight_sync
from rlscale.run.sides.weight_sync import WeightSync
from rlscale.serve.supervisor import ROUTER
from tests.unit.run.sides.told_fleet import Fleet


@pytest.mark.parametrize("url", ["http://engine-0", "http://engine-1"])
def test_a_sync_ends_when_one_of_its_engines_is_down_and_asks_as_of_one_that_loads(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sync, "_LOOK_EVERY_S", 0.0)
    fleet = Fleet(monkeypatch, **{"engine-1": "did not answer for 20 s", ROUTER: "died"})
    none: Any = None
    look = WeightSync(compose(), none, fleet.engines, none, {}, Path("nowhere")).watching(7, [url])
    if url == "http://engine-0":
        look()
    else:
        with pytest.raises(UserError, match=r"^weight sync 7: engine-1 did not answer for 20 s$"):
            look()
    assert fleet.asked == [("down", 20.0, True)]


@pytest.mark.parametrize(("down", "why"), [("engine-1", "did not answer for 20 s"), (ROUTER, "died")])
def test_before_anything_loads_whatever_is_silent_ends_a_sync(
    down: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sync, "_LOOK_EVERY_S", 0.0)
    fleet = Fleet(monkeypatch, **{down: why})
    none: Any = None
    with pytest.raises(UserError, match=rf"^weight sync 7: {down} {why}$"):
        WeightSync(compose(), none, fleet.engines, none, {}, Path("nowhere")).watching(7)()
    assert fleet.asked == [("down", 20.0, False)]


def test_the_way_to_engines_of_one_rank_is_the_same_for_waves_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the trainer would connect anew for each."""
    fleet = Fleet(monkeypatch)
    none: Any = None
    config = compose(None, ["cluster.placement=disaggregated"])
    sync = WeightSync(config, none, fleet.engines, none, {}, Path("nowhere"))
    assert sync._route(fleet.engines.urls) == sync._route(fleet.engines.urls[:1])

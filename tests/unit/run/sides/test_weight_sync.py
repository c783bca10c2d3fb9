"""The way that weights take to engines. What is sent along it: tests/unit/weights, tests/e2e/weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.sides.sync_waves import SyncWaves, waves
from rlscale.run.sides.weight_sync import WeightSync

URLS = ["http://0", "http://1", "http://2"]
IN_WAVES = ("rollout.engines=3", "cluster.max_engines=3", "weights.max_engines_at_once=2", "weights/transport=delta")


def sync_to(ranks: list[int], recipe: str | None = None, *overrides: str) -> WeightSync:
    """A sync to engines of so many tensor-parallel ranks."""
    engines: Any = SimpleNamespace(urls=URLS, ranks=ranks, started_from="model")
    nobody: Any = None
    return WeightSync(compose(recipe, overrides), nobody, engines, nobody, {}, Path("weights"))


def test_all_waves_of_a_sync_take_one_way_so_that_the_transport_stays_also_where_the_last_wave_is_smaller() -> None:
    sync = sync_to([2, 2, 2], "arithmetic_async", *IN_WAVES)
    wave, last = (sync._route(tuple(urls)) for urls in waves(URLS, 2))
    assert wave == last
    assert (wave.ranks_of(2), last.ranks_of(1)) == ((2, 2), (2,))


def test_engines_of_different_sizes_are_told_apart() -> None:
    assert sync_to([4, 2, 2])._route(tuple(URLS)).ranks_of(3) == (4, 2, 2)


def test_after_a_recovery_every_wave_of_the_next_sync_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    sync = sync_to([1, 1, 1], "arithmetic_async", *IN_WAVES, "weights.verify_every=0")
    verified: list[tuple[int, str]] = []
    trainer: Any = SimpleNamespace(losses=0, connect_engines=lambda *_: None, send_weights=lambda *_: [{"bytes": 1.0}])
    sync.trainer, sync.engines.api_key = trainer, ""
    monkeypatch.setattr(sync, "verify", lambda version, urls: verified.append((version, urls[0])) or 0.0)
    router: Any = SimpleNamespace(urls=URLS, withdraw=lambda _: None, admit=lambda *_: None)
    in_waves = SyncWaves(sync, router, lambda *_: None, most=2)
    for version, trainer.losses in enumerate((0, 0, 1, 1)):
        in_waves(version)
    assert verified == [(0, URLS[0]), (0, URLS[2]), (2, URLS[0]), (2, URLS[2])]

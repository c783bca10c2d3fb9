"""An adapter on its way: whole, in one call to each engine, through shared memory or in the call."""

from __future__ import annotations

import base64
import os
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from rlscale.platform.sglang_verified_updates import bucket_is_damaged
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.adapter import AdapterTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import TransferError

CONFIG = {"r": 2, "lora_alpha": 4.0}
ADAPTER = {"a": torch.arange(10.0).view(2, 5), "b": torch.ones(3, 2, dtype=torch.bfloat16)}


class Reader:
    """An engine that reads what it is handed, as SGLang does."""

    def __init__(self, url: str, *, fails: bool = False) -> None:
        self.url, self._fails = url, fails
        self.calls: list[tuple[Mapping[str, Any], int]] = []
        self.read: list[dict[str, torch.Tensor]] = []

    def receive_adapter(self, config: Mapping[str, Any], serialized: list[str], version: int) -> None:
        if self._fails:
            raise ValueError("no room")
        self.calls.append((config, version))
        for one in serialized:
            bucket = pickle.loads(base64.b64decode(one))  # the test's own bytes
            assert not bucket_is_damaged(bucket)
            bytes_of, entries = bucket["flattened_tensor"], bucket["metadata"]
            self.read.append(
                {e.name: bytes_of[e.start_idx : e.end_idx].view(e.dtype).view(e.shape).clone() for e in entries}
            )


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("shares", [True, False])
def test_each_rank_of_each_engine_reads_the_whole_adapter_and_nothing_is_left_behind(shares: bool) -> None:
    engines = [Reader("http://one"), Reader("http://two")]
    transport = AdapterTransport(Route(timeout_s=30.0, shares_devices=shares, ranks=(2, 2)), CONFIG)
    transport.connect(engines)
    for version in (3, 4):
        transport.send(Bucket(list(ADAPTER.items()), version))
        transport.commit(version)
    for engine in engines:
        assert engine.calls == [(CONFIG, 3), (CONFIG, 4)]
        assert len(engine.read) == 4
        for found in engine.read:
            assert found.keys() == ADAPTER.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in ADAPTER.items())
    assert not [*flat_bucket._folder(0).glob(f"{flat_bucket._PREFIX}{os.getpid()}-*")]


@pytest.mark.usefixtures("rank")
def test_an_engine_that_does_not_take_it_is_named() -> None:
    transport = AdapterTransport(Route(timeout_s=30.0), CONFIG)
    transport.connect([Reader("http://one"), Reader("http://broken", fails=True)])
    transport.send(Bucket(list(ADAPTER.items()), 1))
    with pytest.raises(TransferError, match="http://broken did not take the weights: no room"):
        transport.commit(1)

    class Other:
        url = "http://other"

    with pytest.raises(TransferError, match=r"no receive_adapter, which weights\.lora=adapter needs; choose another"):
        transport.connect([Other()])

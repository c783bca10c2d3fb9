"""Broadcasts over a process group that is formed with another program's processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from peer_engine import PeerEngine

from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.broadcast import BroadcastTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import TransferError


@pytest.fixture
def rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def buckets(version: int) -> list[Bucket]:
    torch.manual_seed(version)
    return [
        Bucket([("a", torch.randn(8, 3)), ("b", torch.randn(5, 4).t())], version),
        Bucket([("c", torch.randn(1000))], version),
    ]


def test_every_engine_gets_every_tensor_of_each_version(rank: None) -> None:
    engines = [PeerEngine(), PeerEngine()]
    transport = BroadcastTransport(Route(timeout_s=30.0))
    try:
        transport.connect(engines)
        for version in (1, 2):
            for bucket in buckets(version):
                transport.send(bucket)
            transport.commit(version)
            for engine in engines:
                for name, tensor in (item for bucket in buckets(version) for item in bucket.named):
                    assert torch.equal(engine.received[name], tensor)
        assert engines[0].versions == [(1, False), (1, True), (2, False), (2, True)]
        transport.close()
    finally:
        for engine in engines:
            engine.kill()


def test_engine_that_refuses_ends_the_transfer_at_once_and_a_new_connection_works(rank: None) -> None:
    engines = [PeerEngine(), PeerEngine(fails_at=0)]
    transport = BroadcastTransport(Route(timeout_s=30.0))
    try:
        transport.connect(engines)
        began = time.monotonic()
        transport.send(buckets(1)[0])
        with pytest.raises(TransferError, match="could not take the weights: no such parameter"):
            transport.commit(1)
        assert time.monotonic() - began < 15, "half of what a silent engine is waited for"
    finally:
        for engine in engines:
            engine.kill()
    fresh = PeerEngine()
    try:
        transport.connect([fresh])
        transport.send(buckets(3)[1])
        transport.commit(3)
        assert torch.equal(fresh.received["c"], buckets(3)[1].named[0][1])
        transport.close()
    finally:
        fresh.kill()


def test_engine_that_is_gone_is_named_in_time(rank: None) -> None:
    engine = PeerEngine()
    engine.kill()
    transport = BroadcastTransport(Route(timeout_s=1.0))
    with pytest.raises(TransferError, match=r"http://127\.0\.0\.1:1 could not form a process group"):
        transport.connect([engine])
    transport.close()

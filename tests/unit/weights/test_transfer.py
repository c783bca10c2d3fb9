"""A version on its way: what was sent, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from rlscale.weights.bucket import Bucket
from rlscale.weights.transfer import transfer
from rlscale.weights.transports.transport import Receiver


class Source:
    """Three buckets of 40 bytes, each of which takes 20 ms."""

    def buckets(self, version: int) -> Iterator[Bucket]:
        for number in range(3):
            time.sleep(0.02)
            yield Bucket([(f"w{number}", torch.zeros(10))], version)


class Slow:
    """A transport of which a bucket takes 40 ms, and the end 80 ms."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def connect(self, receivers: Sequence[Receiver]) -> None:
        raise NotImplementedError

    def send(self, bucket: Bucket) -> None:
        time.sleep(0.04)
        self.sent += [name for name, _ in bucket.named]

    def commit(self, version: int) -> None:
        time.sleep(0.08)
        self.sent.append(f"version {version}")

    def close(self) -> None:
        raise NotImplementedError


class Engine:
    def __init__(self, loading_s: float) -> None:
        self.url, self.loading_s = "http://engine", loading_s


class Silent:
    url = "http://another"


def test_the_seconds_of_gathering_sending_and_the_end_are_told_apart_and_add_up() -> None:
    def beside() -> float:
        """Seconds that are of no part, after a look at each part."""
        transport = Slow()
        found = transfer(Source(), transport, [Engine(0.3), Silent(), Engine(0.5)], 7)
        assert transport.sent == ["w0", "w1", "w2", "version 7"]
        assert (found["bytes"], found["buckets"], found["load_seconds"]) == (120.0, 3.0, 0.5)
        assert found["gather_seconds"] >= 0.06
        assert found["send_seconds"] >= 0.12
        assert found["commit_seconds"] >= 0.08
        return found["seconds"] - found["gather_seconds"] - found["send_seconds"] - found["commit_seconds"]

    assert any(0 <= beside() < 0.05 for _ in range(10)), "a busy machine may stop the process between two of them"


def test_nothing_is_said_of_loading_where_no_receiver_tells() -> None:
    assert "load_seconds" not in transfer(Source(), Slow(), [Silent()], 1)

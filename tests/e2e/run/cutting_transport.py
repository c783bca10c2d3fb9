"""Weights through shared memory, cut off once at each stage: an engine is killed, then the rank that sends them, and in
the end a checksum flipped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from rlscale.weights.bucket import Bucket
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.shared_memory import SharedMemoryTransport

STAGES = {1: "before the first bucket", 2: "inside the first bucket", 3: "after the first bucket", 4: "at the commit"}
"""By the version, at the first try of which the first of the engines that get it is killed."""
LOST = 5
"""The version at the first try of which the rank is killed, when engines have been told of a bucket."""
FLIPPED = 6
"""The version whose first bucket is damaged on its way."""


class CuttingTransport(SharedMemoryTransport):
    def __init__(self, route: Any) -> None:
        super().__init__(route)
        self._cut: set[int] = set()
        self._buckets = 0

    def connect(self, receivers: Sequence[Any]) -> None:
        super().connect(receivers)
        self._url, self._buckets = receivers[0].url, 0

    def send(self, bucket: Bucket) -> None:
        version, self._buckets = bucket.version, self._buckets + 1
        if self._buckets == 1 and self._is_due(version, "before the first bucket"):
            self._kill()
        if version == FLIPPED:
            right = flat_bucket.fill_summed
            flat_bucket.fill_summed = lambda *given: right(*given)[::-1]
        if version == LOST and self._buckets == 3 and not (lost := Path(__file__).with_name("lost")).exists():
            lost.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        # Each bucket is handed over with the one after it, and that is waited for with the next.
        if self._buckets == 2 and self._is_due(version, "inside the first bucket"):
            self._while_frozen(lambda: super(CuttingTransport, self).send(bucket))
        elif self._buckets == 3 and self._is_due(version, "after the first bucket"):
            self._finish()
            self._kill()
            super().send(bucket)
        else:
            super().send(bucket)

    def commit(self, version: int) -> None:
        self._buckets = 0
        if self._is_due(version, "at the commit"):
            self._finish()
            self._while_frozen(lambda: self._pass_on(last=True))
        super().commit(version)

    def _is_due(self, version: int, stage: str) -> bool:
        if STAGES.get(version) != stage or version in self._cut:
            return False
        self._cut.add(version)
        return True

    def _while_frozen(self, hand_over: Callable[[], None]) -> None:
        """Hand a bucket to an engine that does not look at it, and kill the engine then."""
        schedulers = [process for process in self._family() if "scheduler" in " ".join(process.cmdline())]
        assert schedulers
        for process in schedulers:
            process.suspend()
        hand_over()
        self._kill()

    def _kill(self) -> None:
        self._buckets = 0
        for process in self._family():
            os.kill(process.pid, signal.SIGKILL)

    def _family(self) -> list[psutil.Process]:
        """The engine's processes."""
        port = int(self._url.rpartition(":")[2])
        listening = next(
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port
        )
        server = psutil.Process(listening)
        return [server, *server.children(recursive=True)]

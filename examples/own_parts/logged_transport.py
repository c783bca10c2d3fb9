"""A transport that writes a line for each version that engines have loaded: its tensors, its bytes, its seconds."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist

from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport


class LoggedTransport(SharedMemoryTransport):
    """Shared memory, and a file `file` that grows by a line with each version."""

    def __init__(self, route: Route, file: str) -> None:
        super().__init__(route)
        self._file = Path(file)
        self._tensors = self._bytes = 0
        self._began = 0.0

    def send(self, bucket: Bucket) -> None:
        """Count the bucket, and send it."""
        if not self._tensors:
            self._began = time.monotonic()
        self._tensors += len(bucket.named)
        self._bytes += bucket.nbytes
        super().send(bucket)

    def commit(self, version: int) -> None:
        """Wait until the engines have loaded it, then write; only rank 0 does."""
        super().commit(version)
        if dist.get_rank() == 0:
            seconds = time.monotonic() - self._began
            with self._file.open("a") as file:
                file.write(f"version {version}: {self._tensors} tensors, {self._bytes} bytes in {seconds:.3f} s\n")
        self._tensors = self._bytes = 0

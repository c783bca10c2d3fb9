"""To engines that compute with an adapter beside their own weights (`weights.lora=adapter`): it alone, in one call.

To engines on the machine of rank 0 that share its devices on the CPU the bytes go through shared memory, to all others
in the call itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from rlscale.platform.sglang_verified_updates import CHECKSUM
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.receivers import TakesAdapters, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, tell


class AdapterTransport:
    """Rank 0 to every engine, which verifies the checksum before it loads."""

    def __init__(self, route: Route, config: Mapping[str, Any]) -> None:
        """`config`: what peft says of the adapter (adapter_config.json)."""
        self._route, self._config = route, config
        self._shares_memory = route.shares_devices and route.device == "cpu"
        self._receivers: list[TakesAdapters] = []
        self._shared: flat_bucket.SharedBytes | None = None
        self._serialized = ""

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport."""
        self.close()
        if dist.get_rank() == 0:
            flat_bucket.remove_leftovers()
            self._receivers = that_can(TakesAdapters, receivers, "adapter", "weights.lora")

    def send(self, bucket: Bucket) -> None:
        """See Transport. All of the adapter is one bucket: engines take no part of one."""
        if not self._receivers:
            return
        assert not self._serialized, "an adapter in several buckets"
        entries, size = flat_bucket.contents(bucket.named)
        reader: Any
        if self._shares_memory:
            # New bytes each time: the engine goes on reading those that it has mapped.
            self._shared = flat_bucket.SharedBytes(size)
            flat, reader = self._shared.flat, self._shared.reader()
        else:
            flat = torch.zeros(size, dtype=torch.uint8)
        flat_bucket.fill(flat, bucket.named, entries)
        if not self._shares_memory:
            reader = flat_bucket.Rebuild(partial(torch.frombuffer, dtype=torch.uint8), (bytearray(flat.numpy()),))
        self._serialized = flat_bucket.dump(reader, entries, **{CHECKSUM: flat_bucket.sum_of(flat, size)})

    def commit(self, version: int) -> None:
        """See Transport."""
        if not self._receivers:  # another rank speaks to the engines
            return
        ranks = dict(zip(map(id, self._receivers), self._route.ranks_of(len(self._receivers)), strict=True))
        try:
            tell(
                self._receivers,
                lambda receiver: receiver.receive_adapter(
                    self._config, [self._serialized] * ranks[id(receiver)], version
                ),
                self._route.timeout_s,
            )
        finally:
            self._forget()

    def close(self) -> None:
        """See Transport."""
        self._forget()
        self._receivers = []

    def _forget(self) -> None:
        if self._shared is not None:
            self._shared.remove()
        self._shared, self._serialized = None, ""

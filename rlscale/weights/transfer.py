"""One version of the weights from a source to the receivers of a transport, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rlscale.weights.bucket import WeightSource
from rlscale.weights.transports.receivers import TellsLoading
from rlscale.weights.transports.transport import Receiver, Transport

LOAD = "load_seconds"
"""The one metric that is not rank 0's alone: with CUDA IPC each rank talks to engines of its own."""


def transfer(
    source: WeightSource, transport: Transport, receivers: Sequence[Receiver], version: int
) -> dict[str, float]:
    """Send all buckets as `version` and wait until they are loaded. TransferError if one receiver did not load.

    Returns bytes, buckets, and seconds from the first bucket to the last answer: `gather_seconds` of them for gathering
    and encoding, `send_seconds` for what the transport does meanwhile (it also waits there for engines that are more
    than a bucket behind), `commit_seconds` for waiting at the end. Beside these, `load_seconds`: what the slowest
    receiver of this rank needed for loading, where receivers tell.
    """
    began = time.perf_counter()
    gather = send = 0.0
    found = {"bytes": 0.0, "buckets": 0.0}
    buckets = source.buckets(version)
    while True:
        before = time.perf_counter()
        bucket = next(buckets, None)
        gathered = time.perf_counter()
        gather += gathered - before
        if bucket is None:
            break
        transport.send(bucket)
        send += time.perf_counter() - gathered
        found["bytes"] += bucket.nbytes
        found["buckets"] += 1
        del bucket  # its memory, before the next is gathered
    before = time.perf_counter()
    transport.commit(version)
    ended = time.perf_counter()
    loads = [receiver.loading_s for receiver in receivers if isinstance(receiver, TellsLoading)]
    return {
        **found,
        "seconds": ended - began,
        "gather_seconds": gather,
        "send_seconds": send,
        "commit_seconds": ended - before,
        **({LOAD: max(loads)} if loads else {}),
    }

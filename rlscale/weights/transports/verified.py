"""Another transport, after which every engine is asked for the checksum of every tensor that it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist

from rlscale.platform.tensor_sum import TensorSum
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.receivers import TellsSums
from rlscale.weights.transports.transport import Receiver, TransferError, Transport, tell

_SHOWN = 3
"""Tensors that a message names at most."""


class VerifiedTransport:
    """What a transport sends, compared with what the engines have afterwards, in every `every`th version."""

    def __init__(self, transport: Transport, every: int, timeout_s: float) -> None:
        """`timeout_s`: what an engine may take for its checksums."""
        self._transport, self._every, self._timeout = transport, every, timeout_s
        self._receivers: list[TellsSums] = []
        self._sent: dict[str, TensorSum] = {}

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport. TransferError also for an engine that cannot tell."""
        self._sent = {}
        self._transport.connect(receivers)
        self._receivers = []
        if dist.get_rank() != 0:
            return
        for receiver in receivers:
            if not isinstance(receiver, TellsSums):
                kind = type(receiver).__name__
                raise TransferError(f"{receiver.url}: its {kind} has no weight_sums; set weights.verify_tensors=0")
            self._receivers.append(receiver)

    def send(self, bucket: Bucket) -> None:
        """See Transport."""
        if self._receivers and self._is_due(bucket.version):
            self._sent |= {name: TensorSum.of(tensor) for name, tensor in bucket.named}
        self._transport.send(bucket)

    def commit(self, version: int) -> None:
        """See Transport. TransferError naming the tensors which an engine has otherwise, or not at all."""
        self._transport.commit(version)
        sent, self._sent = self._sent, {}
        if not self._receivers or not self._is_due(version):
            return

        def compare(receiver: TellsSums) -> None:
            if problem := difference(sent, receiver.weight_sums()):
                raise TransferError(f"{problem} (weights.verify_tensors)")

        tell(self._receivers, compare, self._timeout)

    def close(self) -> None:
        """See Transport."""
        self._receivers, self._sent = [], {}
        self._transport.close()

    def _is_due(self, version: int) -> bool:
        return version % self._every == 0


def difference(sent: Mapping[str, TensorSum], held: Mapping[str, TensorSum]) -> str:
    """What an engine holds otherwise than it was sent, in a line; empty where it has every tensor, bit by bit.

    That it holds more is no difference: it tells tensors as one and in parts.
    """
    missing = sorted(sent.keys() - held.keys())
    if missing:
        return f"it holds no tensor of {len(missing)} of {len(sent)} names, first {', '.join(missing[:_SHOWN])}"
    other = [name for name in sent if sent[name] != held[name]]
    if not other:
        return ""
    first = other[0]
    one, two = sent[first], held[first]
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        detail = f"which is {two.dtype} {list(two.shape)} and was sent as {one.dtype} {list(one.shape)}"
    else:
        detail = f"whose checksum is {two.checksum[:8]}... and was sent as {one.checksum[:8]}..."
    return f"{len(other)} of {len(sent)} tensors are not what was sent, first {first}, {detail}"

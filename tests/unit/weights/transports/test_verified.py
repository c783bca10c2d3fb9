"""What engines hold after a version, compared tensor by tensor with what was sent."""

from __future__ import annotations

import pytest
import torch
from one_rank import buckets, tensors

from rlscale.platform.tensor_sum import TensorSum
from rlscale.trainer.hook_contract.recording_receiver import RecordingReceiver
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.recording import RecordingTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import TransferError
from rlscale.weights.transports.verified import VerifiedTransport, difference


class TellingReceiver(RecordingReceiver):
    """Also says what it holds; `asked` counts how often."""

    asked = 0

    def weight_sums(self) -> dict[str, TensorSum]:
        self.asked += 1
        as_one = {"fused": TensorSum.of(torch.zeros(2))}  # as engines tell what they keep as one tensor
        return as_one | {name: TensorSum.of(tensor) for name, tensor in self.tensors.items()}


def verified(*receivers: RecordingReceiver, every: int = 1) -> VerifiedTransport:
    transport = VerifiedTransport(SharedMemoryTransport(Route(timeout_s=10.0)), every, 10.0)
    transport.connect(receivers)
    return transport


def send(transport: VerifiedTransport, version: int, of: list[Bucket] | None = None) -> None:
    for bucket in of or buckets(version):
        transport.send(bucket)
    transport.commit(version)


def test_every_engine_is_asked_in_every_so_many_versions_and_what_is_right_passes(rank: None) -> None:
    engines = [TellingReceiver("http://one"), TellingReceiver("http://other")]
    transport = verified(*engines, every=3)
    for version in range(1, 8):
        send(transport, version)
    assert [engine.asked for engine in engines] == [2, 2]
    assert engines[1].tensors.keys() == tensors(buckets()).keys()
    transport.close()


class Rounds(TellingReceiver):
    def weight_sums(self) -> dict[str, TensorSum]:
        self.tensors["d"] = self.tensors["d"].bfloat16().float()
        return super().weight_sums()


class LeavesOut(TellingReceiver):
    def weight_sums(self) -> dict[str, TensorSum]:
        return {name: one for name, one in super().weight_sums().items() if name not in "ac"}


class OtherType(TellingReceiver):
    def weight_sums(self) -> dict[str, TensorSum]:
        self.tensors["d"] = self.tensors["d"].bfloat16()
        return super().weight_sums()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Rounds, r"1 of 4 tensors are not what was sent, first d, whose checksum is \w{8}... and was sent as \w{8}..."),
        (LeavesOut, "it holds no tensor of 2 of 4 names, first a, c"),
        (OtherType, r"first d, which is bfloat16 \[100\] and was sent as float32 \[100\]"),
    ],
)
def test_a_tensor_that_an_engine_holds_otherwise_is_named_with_the_engine(
    rank: None, kind: type[TellingReceiver], said: str
) -> None:
    transport = verified(TellingReceiver("http://one"), kind("http://broken"))
    with pytest.raises(TransferError, match=f"^http://broken did not take the weights: .*{said}"):
        send(transport, 1)
    transport.close()


def test_an_engine_that_cannot_tell_is_refused_before_anything_is_sent(rank: None) -> None:
    transport = VerifiedTransport(RecordingTransport(Route()), 1, 10.0)
    with pytest.raises(TransferError, match=r"^http://one: its RecordingReceiver has no weight_sums; set weights\."):
        transport.connect([RecordingReceiver("http://one")])


def test_a_difference_counts_and_more_than_was_sent_is_none() -> None:
    sent = {name: TensorSum.of(tensor) for name, tensor in tensors(buckets()).items()}
    assert difference(sent, sent | {"more": sent["a"]}) == ""
    assert difference(sent, sent | {"a": sent["b"]}).startswith("1 of 4 tensors are not what was sent, first a")

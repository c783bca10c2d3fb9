"""The transport that records: what is sent is written down, and what no transport should be given is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from one_rank import buckets, tensors
from safetensors.torch import save_file

from rlscale.families.weight_files import tensors_of
from rlscale.platform.tensor_sum import TensorSum
from rlscale.trainer.hook_contract.recording_receiver import RecordingReceiver
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.recording import RecordingTransport, read_version
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import TransferError


def recording(folder: Path | None = None) -> RecordingTransport:
    transport = RecordingTransport(Route(timeout_s=3.0), None if folder is None else str(folder))
    transport.connect([RecordingReceiver("http://one"), RecordingReceiver("http://other")])
    return transport


def test_it_keeps_name_type_shape_and_checksum_of_every_tensor_of_every_version(tmp_path: Path) -> None:
    transport = recording(tmp_path / "sent")
    for version in (4, 5):
        for bucket in buckets(version, seed=version):
            transport.send(bucket)
        transport.commit(version)
    assert transport.route == Route(timeout_s=3.0)
    assert transport.urls == ["http://one", "http://other"]
    sent = tensors(buckets(5, seed=5))
    assert transport.versions[5] == {name: TensorSum.of(tensor) for name, tensor in sent.items()}
    assert {name: (one.dtype, one.shape) for name, one in transport.versions[5].items()} == {
        "a": ("float32", (3, 5)),
        "b": ("bfloat16", (7,)),
        "c": ("float32", (2, 2)),
        "d": ("float32", (100,)),
    }
    assert all(transport.versions[4][name].checksum != transport.versions[5][name].checksum for name in sent)
    assert read_version(tmp_path / "sent", 5) == transport.versions[5]


def test_a_tensor_has_the_checksum_of_its_bytes_in_a_file_however_it_lies_in_memory(tmp_path: Path) -> None:
    plain = {"a": torch.arange(6.0).view(2, 3), "b": torch.randn(4).to(torch.float8_e4m3fn), "c": torch.empty(0, 3)}
    save_file(plain, tmp_path / "model.safetensors")
    found = {name: TensorSum.of_entry(entry) for name, entry in tensors_of(tmp_path).items()}
    assert found == {name: TensorSum.of(tensor) for name, tensor in plain.items()}
    assert TensorSum.of(plain["a"].t().contiguous().t()) == found["a"]
    assert all(TensorSum.read(str(one)) == one for one in [*found.values(), TensorSum.of(torch.tensor(1.0))])
    with pytest.raises(ValueError, match="'float32' is not a type, a shape and a checksum"):
        TensorSum.read("float32")


def test_what_no_transport_should_be_given_is_refused_by_name() -> None:
    first, second = buckets(4)
    transport = recording()
    transport.send(first)
    with pytest.raises(TransferError, match=r"^a was sent twice in version 4$"):
        transport.send(first)
    with pytest.raises(TransferError, match=r"^a bucket of version 5 came in the middle of version 4$"):
        transport.send(Bucket(second.named, 5))
    with pytest.raises(TransferError, match=r"^version 5 was committed, and version 4 was sent$"):
        transport.commit(5)
    transport.connect([])
    with pytest.raises(TransferError, match=r"^version 4 was committed, and nothing was sent$"):
        transport.commit(4)
    transport.close()
    with pytest.raises(TransferError, match="connect comes first"):
        transport.send(first)
    assert transport.versions == {}

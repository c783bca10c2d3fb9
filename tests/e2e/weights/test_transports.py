"""Transports to a real engine: afterwards it computes with exactly the weights that were sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from shared_server import SharedServer

from rlscale.cli import main
from rlscale.platform.tensor_sum import TensorSum
from rlscale.serve.http import CallError, call
from rlscale.weights.bucket import Bucket
from rlscale.weights.load import WeightFolder
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.delta import DeltaTransport
from rlscale.weights.transports.disk import DiskTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import TransferError, Transport
from rlscale.weights.transports.verified import VerifiedTransport

PROMPT = [5, 9, 3, 12, 7, 7, 4, 10, 6, 3]
Named = list[tuple[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharpened(folder: Path, seed: int) -> Named:
    """Weights of the folder's model, spread enough that log-probs tell models apart."""
    random = torch.Generator().manual_seed(seed)
    with WeightFolder(folder) as source:
        named = [(name, source.read(name)) for name in source.names()]
    return [
        (name, tensor if "norm" in name else torch.randn(tensor.shape, generator=random) * 0.15)
        for name, tensor in named
    ]


def send(transport: Transport, named: Named, version: int) -> None:
    for part in (named[:7], named[7:]):
        transport.send(Bucket(part, version))
    transport.commit(version)


def logprobs(server: SharedServer) -> tuple[str, list[float]]:
    """The engine's weight version, and its log-probs of the prompt."""
    params = {"max_new_tokens": 1, "temperature": 1.0, "sampling_seed": 1}
    body = {"input_ids": PROMPT, "sampling_params": params, "return_logprob": True, "logprob_start_len": 0}
    meta: Any = call(server.url, "/generate", server.api_key, body, timeout=60)["meta_info"]
    return meta["weight_version"], [logprob for logprob, _, _ in meta["input_token_logprobs"][1:]]


def route(server: SharedServer, folder: Path) -> Route:
    return Route(timeout_s=60.0, started_from=str(server.model_folder), folder=str(folder / "in_flight"))


def test_logprobs_after_a_version_by_disk_are_those_after_one_through_shared_memory(
    shared_server: SharedServer, tmp_path: Path
) -> None:
    by_memory, by_disk = (
        SharedMemoryTransport(route(shared_server, tmp_path)),
        DiskTransport(route(shared_server, tmp_path), keep=1),
    )
    first, second = (sharpened(shared_server.model_folder, seed) for seed in (1, 2))
    for transport in (by_memory, by_disk):
        transport.connect([shared_server.receiver()])
    send(by_memory, second, 1)
    expected = logprobs(shared_server)[1]
    send(by_disk, first, 2)
    version, other = logprobs(shared_server)
    assert version == "2"
    assert max(abs(a - b) for a, b in zip(expected, other, strict=True)) > 0.1
    send(by_disk, second, 3)
    assert logprobs(shared_server) == ("3", expected)
    assert [path.name for path in (tmp_path / "in_flight").iterdir()] == ["version_000003"]
    assert (tmp_path / "in_flight" / "version_000003" / "tokenizer.json").is_file()


def test_an_engine_catches_up_by_deltas_and_computes_with_exactly_the_last_version(
    shared_server: SharedServer, tmp_path: Path
) -> None:
    way = route(shared_server, tmp_path)
    first, second = (sharpened(shared_server.model_folder, seed) for seed in (1, 2))
    by_memory = SharedMemoryTransport(way)
    by_memory.connect([shared_server.receiver()])
    send(by_memory, second, 1)
    expected = logprobs(shared_server)[1]
    for version, named in ((2, first), (3, second)):  # each with a transport of its own, as after a lost connection
        by_delta = DeltaTransport(way)
        by_delta.connect([shared_server.receiver()])
        send(by_delta, named, version)
    assert logprobs(shared_server) == ("3", expected)
    payload = tmp_path / "in_flight" / "delta_000003" / "payload.zst"
    damage(payload)
    by_delta.connect([shared_server.receiver()])
    send(by_delta, second, 4)
    assert logprobs(shared_server) == ("4", expected), "it held version 3 already, and needs its delta no more"
    with pytest.raises(CallError, match="delta_000006 is missing"):
        shared_server.receiver().receive_deltas(str(tmp_path / "in_flight"), 6)
    assert logprobs(shared_server) == ("4", expected), "nothing is loaded of a version that is not whole"


def test_a_flipped_bit_is_told_with_the_engines_name_and_nothing_of_it_is_loaded(
    shared_server: SharedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, (first, second) = route(shared_server, tmp_path), (sharpened(shared_server.model_folder, n) for n in (1, 2))
    by_memory, by_disk = SharedMemoryTransport(way), DiskTransport(way)
    for transport in (by_memory, by_disk):
        transport.connect([shared_server.receiver()])
    send(by_disk, first, 1)
    expected = logprobs(shared_server)
    fill = flat_bucket.fill_summed
    monkeypatch.setattr(flat_bucket, "fill_summed", lambda *given: fill(*given)[::-1])
    with pytest.raises(TransferError, match=f"{shared_server.url} did not take the weights: .*the bucket was damaged"):
        send(by_memory, second, 2)
    assert logprobs(shared_server) == expected
    folder = tmp_path / "in_flight" / "version_000001"
    damage(next(folder.glob("*.safetensors")))
    with pytest.raises(CallError, match="is damaged: 1 tensors, first model"):
        shared_server.receiver().receive_folder(str(folder), 2)
    assert logprobs(shared_server) == expected


def test_an_engine_tells_the_checksum_of_every_tensor_and_one_that_is_not_what_was_sent_is_named(
    shared_server: SharedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Careless(SharedMemoryTransport):
        """Sends one tensor otherwise from version 3 on."""

        def send(self, bucket: Bucket) -> None:
            named = [
                (name, tensor + 1e-3 if bucket.version > 2 and name.endswith("1.self_attn.k_proj.weight") else tensor)
                for name, tensor in bucket.named
            ]
            super().send(Bucket(named, bucket.version))

    transport = VerifiedTransport(Careless(route(shared_server, tmp_path)), every=1, timeout_s=60.0)
    transport.connect([shared_server.receiver()])
    named = sharpened(shared_server.model_folder, 5)
    send(transport, named, 2)
    held = shared_server.receiver().weight_sums()
    assert {name: held[name] for name, _ in named} == {name: TensorSum.of(tensor) for name, tensor in named}
    assert {name for name in held if "qkv" not in name and "gate_up" not in name} == {name for name, _ in named}
    told = r"1 of \d+ tensors are not what was sent, first model.layers.1.self_attn.k_proj.weight, whose checksum is"
    with pytest.raises(TransferError, match=f"{shared_server.url} did not take the weights: {told}"):
        send(transport, named, 3)
    save_file(dict(named), tmp_path / "sent.safetensors")
    places = [shared_server.url, str(tmp_path / "sent.safetensors"), f"key_file={shared_server.key_file}"]
    assert main(["weights", "compare", *places]) == 1
    *_, differs, last = capsys.readouterr().out.splitlines()
    assert differs.startswith("differ: model.layers.1.self_attn.k_proj.weight: float32 [")
    assert last == f"1 of {len(named)} tensors that both have differ"
    assert main(["weights", "compare", *places, "match=mlp"]) == 0


def damage(file: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x80
    file.write_bytes(content)

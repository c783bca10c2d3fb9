"""Buckets as flat bytes in shared memory: what SGLang would read, in which order, and what is left behind."""

from __future__ import annotations

import ast
import base64
import functools
import importlib.metadata
import importlib.util
import io
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from one_rank import buckets

from rlscale.weights.bucket import Bucket
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.cuda_ipc import IpcTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import TransferError


def sglang_file(path: str) -> Path:
    return Path(str(importlib.metadata.distribution("sglang").locate_file(path)))


@functools.cache
def unpickler() -> Any:
    """SGLang's own unpickler, taken out of a module that is too slow to import."""
    source = sglang_file("sglang/srt/utils/common.py").read_text()
    (found,) = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "SafeUnpickler"]
    names: dict[str, Any] = {"pickle": pickle}
    exec(compile(ast.Module([found], []), "common.py", "exec"), names)
    return names["SafeUnpickler"]


unpickler()  # now: Python 3.11 cannot parse in two threads at once, and engines are called in threads


def sglang_load(serialized: str) -> list[tuple[str, torch.Tensor]]:
    """What SGLang's own unpickler and bucket class make of a serialized bucket (copies)."""
    spec = importlib.util.spec_from_file_location(
        "tensor_bucket", sglang_file("sglang/srt/weight_sync/tensor_bucket.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded = unpickler()(io.BytesIO(base64.b64decode(serialized, validate=True))).load()
    bucket = module.FlattenedTensorBucket(flattened_tensor=loaded["flattened_tensor"], metadata=loaded["metadata"])
    return [(name, tensor.clone()) for name, tensor in bucket.reconstruct_tensors()]


class FakeEngine:
    """Remembers what it was given; may fail."""

    def __init__(self, fails: bool = False, slow: threading.Event | None = None) -> None:
        self.url, self.fails, self.slow = "http://engine", fails, slow
        self.calls: list[tuple[list[tuple[str, torch.Tensor]], int, bool]] = []

    def receive_tensors(self, serialized: list[str], load_format: str | None, version: int, last: bool) -> None:
        assert load_format == "flattened_bucket"
        if self.slow is not None:
            self.slow.wait(10)
        if self.fails:
            raise RuntimeError("out of memory")
        self.calls.append((sglang_load(serialized[0]), version, last))


def leftovers() -> list[Path]:
    return list(flat_bucket._folder(0).glob(f"{flat_bucket._PREFIX}{flat_bucket.os.getpid()}-*"))


def test_engines_get_every_tensor_and_know_which_bucket_is_the_last(rank: None) -> None:
    engines = [FakeEngine(), FakeEngine()]
    transport = SharedMemoryTransport(Route(timeout_s=10.0))
    transport.connect(engines)  # type: ignore[arg-type]  # a part of a Receiver
    for bucket in buckets():
        transport.send(bucket)
    transport.commit(4)
    for engine in engines:
        assert [(version, last) for _, version, last in engine.calls] == [(4, False), (4, True)]
        got = dict(engine.calls[0][0] + engine.calls[1][0])
        for bucket in buckets():
            for name, tensor in bucket.named:
                assert got[name].dtype == tensor.dtype
                assert torch.equal(got[name], tensor)
    transport.close()
    assert leftovers() == []


def test_tensors_may_change_as_soon_as_send_returns(rank: None) -> None:
    engine, transport = FakeEngine(), SharedMemoryTransport(Route(timeout_s=10.0))
    transport.connect([engine])  # type: ignore[list-item]  # a part of a Receiver
    tensor = torch.ones(4)
    transport.send(Bucket([("w", tensor)], 1))
    tensor.zero_()
    transport.commit(1)
    assert torch.equal(engine.calls[0][0][0][1], torch.ones(4))
    transport.close()


def test_a_bucket_goes_into_a_file_that_engines_have_read_and_arrives_as_it_was_sent(
    rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    fresh = flat_bucket.SharedBytes

    def counted(size: int) -> flat_bucket.SharedBytes:
        made.append(size)
        return fresh(size)

    monkeypatch.setattr(flat_bucket, "SharedBytes", counted)
    engine, transport = FakeEngine(), SharedMemoryTransport(Route(timeout_s=10.0))
    transport.connect([engine])
    for version in (1, 2):
        for number in range(8):
            values = torch.full((100 - number,), float(10 * version + number))
            transport.send(Bucket([(f"w{number}", values)], version))
        transport.commit(version)
    assert len(made) == 3, "one is filled, one waits, one is read; and the same for the next version"
    for call, (found, version, _) in enumerate(engine.calls):
        assert torch.equal(found[0][1], torch.full((100 - call % 8,), float(10 * version + call % 8)))
    assert len(leftovers()) == 3
    transport.close()
    assert leftovers() == []


def test_engine_that_fails_is_named_and_nothing_is_left_behind(rank: None) -> None:
    transport = SharedMemoryTransport(Route(timeout_s=10.0))
    transport.connect([FakeEngine(), FakeEngine(fails=True)])
    transport.send(buckets()[0])
    with pytest.raises(TransferError, match="http://engine did not take the weights: out of memory"):
        transport.commit(4)
    transport.close()
    assert leftovers() == []


def test_a_bucket_that_comes_after_a_failed_one_leaves_no_file_behind(rank: None) -> None:
    transport = SharedMemoryTransport(Route(timeout_s=10.0))
    transport.connect([FakeEngine(fails=True)])  # type: ignore[list-item]  # a part of a Receiver
    transport.send(buckets()[0])
    transport.send(buckets()[1])
    with pytest.raises(TransferError, match="out of memory"):
        transport.send(buckets()[0])
    transport.close()
    assert leftovers() == []


def test_engine_that_does_not_answer_ends_the_transfer_in_time(rank: None) -> None:
    slow = threading.Event()
    transport = SharedMemoryTransport(Route(timeout_s=0.2))
    transport.connect([FakeEngine(slow=slow)])  # type: ignore[list-item]  # a part of a Receiver
    transport.send(buckets()[0])
    with pytest.raises(TransferError, match=r"did not answer within weights\.timeout_s=0\.2"):
        transport.commit(4)
    slow.set()
    transport.close()
    assert leftovers() == []


def test_engine_that_is_too_late_gets_an_error_and_no_empty_weights() -> None:
    shared = flat_bucket.SharedBytes(16)
    entries, _ = flat_bucket.contents([("w", torch.ones(4))])
    serialized = flat_bucket.dump(shared.reader(), entries)
    shared.remove()
    with pytest.raises(RuntimeError, match="unable to open file"):
        sglang_load(serialized)
    assert leftovers() == []


def test_files_of_a_killed_process_are_removed() -> None:
    dead = flat_bucket._folder(0) / f"{flat_bucket._PREFIX}{2**22 + 1}-x"  # above the largest process id of Linux
    dead.write_bytes(b"x")
    mine = flat_bucket.SharedBytes(8)
    flat_bucket.remove_leftovers()
    assert not dead.exists()
    assert mine.path.exists()
    mine.remove()


@pytest.mark.parametrize(
    ("rank_of_8", "first_ranks", "engine"),
    [(0, [0, 4], 0), (3, [0, 4], 0), (4, [0, 4], 1), (7, None, 1), (5, [4], 0), (3, [4], None)],
)
def test_each_rank_talks_to_the_engine_on_its_own_gpus(
    monkeypatch: pytest.MonkeyPatch, rank_of_8: int, first_ranks: list[int] | None, engine: int | None
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    monkeypatch.setattr(dist, "get_rank", lambda: rank_of_8)
    monkeypatch.setattr(dist, "new_group", lambda ranks, backend: tuple(ranks))
    engines = [FakeEngine() for _ in first_ranks or range(2)]
    transport = IpcTransport(Route("cuda", ranks=(4,) * len(engines), first_ranks=first_ranks and tuple(first_ranks)))
    transport.connect(engines)  # type: ignore[arg-type]  # a part of a Receiver
    assert transport._receiver is (None if engine is None else engines[engine])
    if engine is None:
        transport.send(buckets()[0])
        transport.commit(1)
    else:
        first = rank_of_8 // 4 * 4
        assert (transport._first, transport._group) == (first, tuple(range(first, first + 4)))


@pytest.mark.parametrize(("rank_of_8", "engine", "span"), [(3, 0, (0, 1, 2, 3)), (5, 1, (4, 5)), (6, 2, (6, 7))])
def test_engines_of_several_sizes_have_their_own_ranks(
    monkeypatch: pytest.MonkeyPatch, rank_of_8: int, engine: int, span: tuple[int, ...]
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    monkeypatch.setattr(dist, "get_rank", lambda: rank_of_8)
    monkeypatch.setattr(dist, "new_group", lambda ranks, backend: tuple(ranks))
    engines = [FakeEngine() for _ in range(3)]
    transport = IpcTransport(Route("cuda", ranks=(4, 2, 2)))
    transport.connect(engines)  # type: ignore[arg-type]  # a part of a Receiver
    assert (transport._receiver, transport._group) == (engines[engine], span)


def test_engines_that_do_not_fit_the_ranks_are_refused(rank: None) -> None:
    with pytest.raises(TransferError, match="2 engines of 1 ranks do not fit the 1 trainer ranks"):
        IpcTransport(Route("cuda")).connect([FakeEngine(), FakeEngine()])

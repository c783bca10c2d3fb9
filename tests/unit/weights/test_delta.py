"""Deltas: exact, verified before anything is written, and refused by name where they do not fit."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlscale.weights.bucket import Bucket
from rlscale.weights.delta.delta_encoding import DeltaEncoding, decode, encode
from rlscale.weights.delta.delta_error import DeltaError
from rlscale.weights.delta.local_copy import LocalCopy
from rlscale.weights.delta.published import INDEX, PAYLOAD, folder_of, read_index, read_payload
from rlscale.weights.transports import delta as delta_transport
from rlscale.weights.transports.delta import DeltaTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import TransferError

Weights = dict[str, torch.Tensor]


class Engine:
    """Patches a copy of its own, as an engine's server does."""

    url = "http://engine"

    def __init__(self, copy: LocalCopy) -> None:
        self.copy = copy

    def receive_deltas(self, folder: str, version: int) -> None:
        self.copy.catch_up(Path(folder), version)


class Place:
    """A folder that engines start from, and the place for deltas."""

    def __init__(self, root: Path, encoding: str) -> None:
        self.root, self.model, self.deltas, self.encoding = root, root / "model", root / "deltas", encoding
        self.model.mkdir()
        save_file(weights(0), self.model / "model.safetensors")
        (self.model / "config.json").write_text("{}")

    def transport(self) -> DeltaTransport:
        route = Route(timeout_s=10.0, started_from=str(self.model), folder=str(self.deltas))
        return DeltaTransport(route, encoding=self.encoding)

    def copy(self, name: str) -> LocalCopy:
        return LocalCopy(self.root / name, self.model)

    def publish(self, *versions: int) -> LocalCopy:
        """Publish these versions to one engine; its copy."""
        transport, copy = self.transport(), self.copy("engine")
        transport.connect([Engine(copy)])
        for version in versions:
            transport.send(Bucket(list(weights(version).items()), version))
            transport.commit(version)
        return copy


def weights(version: int) -> Weights:
    """Two matrices of which a few numbers change in each version, and one tensor that never does."""
    base = torch.Generator().manual_seed(0)
    found = {
        "a": torch.randn(40, 30, generator=base),
        "b": torch.randn(64, generator=base).to(torch.bfloat16),
        "still": torch.randn(9, generator=base),
    }
    for number in range(1, version + 1):
        found["a"][number, 3] += number
        found["b"][number] *= -1
    return found


@pytest.fixture(params=["xor", "overwrite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Place(tmp_path, request.param)
    dist.destroy_process_group()


def holds(copy: LocalCopy, version: int) -> bool:
    found, right = load_file(copy.folder / "model.safetensors"), weights(version)
    return copy.held() == version and all(torch.equal(found[name], right[name]) for name in right)


@given(st.binary(min_size=4, max_size=64), st.data(), st.sampled_from(DeltaEncoding), st.sampled_from([1, 2, 4]))
def test_what_is_decoded_is_what_was_encoded(
    old: bytes, data: st.DataObject, encoding: DeltaEncoding, element: int
) -> None:
    size = len(old) // element * element
    new = data.draw(st.binary(min_size=size, max_size=size))
    before, after = np.frombuffer(old[:size], np.uint8), np.frombuffer(new, np.uint8)
    payload = encode(encoding, after, before, element)
    assert decode(encoding, payload, before, element).tobytes() == new


@given(st.binary(max_size=200), st.sampled_from(DeltaEncoding))
def test_a_payload_of_arbitrary_bytes_is_refused(payload: bytes, encoding: DeltaEncoding) -> None:
    with pytest.raises(DeltaError):
        decode(encoding, payload, np.zeros(16, np.uint8), 4)


def test_engines_hold_every_version_bit_by_bit_and_the_payload_is_a_difference(place: Place) -> None:
    assert holds(place.publish(1), 1)
    index = read_index(folder_of(place.deltas, 1))
    still = index.tensors["still"]
    assert (index.base_version, still.start == still.end) == (-1, True)
    a, old = index.tensors["a"], weights(0)["a"].numpy().view(np.uint8).reshape(-1)
    payload = read_payload(folder_of(place.deltas, 1), index)[a.start : a.end]
    assert len(payload) < 100, "one number of 1,200 has changed"
    new = decode(DeltaEncoding(place.encoding), payload, old, 4)
    assert np.array_equal(new, weights(1)["a"].numpy().view(np.uint8).reshape(-1))


def test_a_late_joiner_replays_all_versions_and_a_new_transport_goes_on_where_the_last_one_ended(place: Place) -> None:
    place.publish(1, 2)
    delta_transport._SNAPSHOTS.clear()  # as in another process
    assert holds(place.publish(3), 3)
    assert read_index(folder_of(place.deltas, 3)).base_version == 2
    late = place.copy("late")
    late.catch_up(place.deltas, 3)
    assert holds(late, 3)


def test_the_way_of_a_late_joiner_does_not_grow_with_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third version there is a delta from the start, and what led there is removed."""
    monkeypatch.setattr(delta_transport, "FROM_START_EVERY", 3)
    behind = place.copy("behind")
    place.publish(1)
    behind.catch_up(place.deltas, 1)
    delta_transport._SNAPSHOTS.clear()
    assert holds(place.publish(2, 3, 4, 5, 6, 7, 8), 8)
    assert sorted(path.name for path in place.deltas.iterdir()) == [
        *("delta_000006", "delta_000007", "delta_000008"),
        "from_start_000006",
    ]
    late = place.copy("late")
    for copy, version in ((late, 7), (behind, 8), (late, 8)):
        copy.catch_up(place.deltas, version)
        assert holds(copy, version)
    delta_transport._SNAPSHOTS.clear()
    assert holds(place.publish(9), 9)


def test_the_same_weights_are_a_version_of_their_own_and_the_same_version_is_not_published_twice(place: Place) -> None:
    copy, transport = place.publish(1), place.transport()
    transport.connect([Engine(copy)])
    for version in (2, 2):
        transport.send(Bucket(list(weights(1).items()), version))
        transport.commit(version)
    assert copy.held() == 2
    assert (folder_of(place.deltas, 2) / PAYLOAD).stat().st_size == 0
    transport.send(Bucket(list(weights(7).items()), 2))
    with pytest.raises(TransferError, match="version 2 was published already, and these are other weights"):
        transport.commit(2)


def flip(delta: Path) -> None:
    content = bytearray((delta / PAYLOAD).read_bytes())
    content[len(content) // 2] ^= 1
    (delta / PAYLOAD).write_bytes(content)


def cut(delta: Path) -> None:
    (delta / PAYLOAD).write_bytes((delta / PAYLOAD).read_bytes()[:-1])


def confuse(delta: Path) -> None:
    (delta / INDEX).write_text((delta / INDEX).read_text()[:-9])


def forget(delta: Path) -> None:
    (delta / INDEX).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [(flip, "is corrupted"), (cut, "is truncated"), (confuse, "cannot be read"), (forget, "delta_000002 is missing")],
)
def test_a_delta_that_is_not_whole_changes_nothing(place: Place, damage: Callable[[Path], None], said: str) -> None:
    place.publish(1, 2)
    damage(folder_of(place.deltas, 2))
    late = place.copy("late")
    late.catch_up(place.deltas, 1)
    with pytest.raises(DeltaError, match=said):
        late.catch_up(place.deltas, 2)
    assert holds(late, 1)


def test_repeated_and_reordered_deltas_and_those_of_other_weights_are_refused(place: Place) -> None:
    copy = place.publish(1, 2, 3)
    with pytest.raises(DeltaError, match="delta_000003 is repeated: version 3 is held already"):
        copy.apply(folder_of(place.deltas, 3))
    late = place.copy("late")
    late.catch_up(place.deltas, 1)
    with pytest.raises(DeltaError, match="out of order: its base is version 2, held is 1"):
        late.apply(folder_of(place.deltas, 3))
    assert holds(late, 1)
    other = place.copy("other")
    other.catch_up(place.deltas, 2)
    save_file(weights(2) | {"still": torch.zeros(9)}, other.folder / "model.safetensors")
    with pytest.raises(DeltaError, match="was made on other weights: still does not become what was published"):
        other.apply(folder_of(place.deltas, 3))
    assert other.held() == 2


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """A disk that takes no more than so many bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_publishes_nothing_and_the_same_version_follows_once_there_is_room(place: Place) -> None:
    copy = place.publish(1)
    with full_after(200), pytest.raises(TransferError, match=r"version 2 cannot be published in .*File too large"):
        place.publish(2)
    assert [path.name for path in place.deltas.iterdir()] == ["delta_000001"]
    assert holds(copy, 1)
    assert holds(place.publish(2), 2)


def test_an_engine_on_a_full_disk_says_so_and_its_copy_is_made_anew(place: Place) -> None:
    place.publish(1)
    late = place.copy("late")
    with full_after(2000), pytest.raises(OSError, match="File too large"):
        late.catch_up(place.deltas, 1)
    assert late.held() is None
    late.catch_up(place.deltas, 1)
    assert holds(late, 1)


def test_a_copy_whose_writing_was_cut_off_or_that_is_newer_is_made_anew(place: Place) -> None:
    copy = place.publish(1, 2)
    copy._note(None)  # as while it is written
    save_file(weights(9), copy.folder / "model.safetensors")
    copy.catch_up(place.deltas, 2)
    assert holds(copy, 2)
    copy.catch_up(place.deltas, 1)
    assert holds(copy, 1)


def test_the_versions_of_two_runs_are_not_mixed_in_an_engine_that_outlives_them(place: Place) -> None:
    first = place.publish(1, 2)
    place.deltas = place.root / "other"
    place.copy("engine").catch_up(first.folder.parent / "deltas", 2)
    transport = place.transport()
    transport.connect([Engine(place.copy("elsewhere"))])
    for version in (1, 2):  # the same numbers for other weights
        transport.send(Bucket(list(weights(version + 4).items()), version))
        transport.commit(version)
    outlived = place.copy("engine")
    outlived.catch_up(place.deltas, 2)
    found, right = load_file(outlived.folder / "model.safetensors"), weights(6)
    assert all(torch.equal(found[name], right[name]) for name in right)


def test_readers_see_whole_deltas_only_while_one_is_published(place: Place) -> None:
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for delta in place.deltas.glob("delta_*"):
                try:
                    read_payload(delta, read_index(delta))
                except DeltaError as error:
                    wrong.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        assert holds(place.publish(*range(1, 8)), 7)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []


def test_a_tied_head_that_is_not_sent_is_left_alone_and_a_tensor_that_the_folder_lacks_is_refused(place: Place) -> None:
    transport, copy = place.transport(), place.copy("engine")
    transport.connect([Engine(copy)])
    sent = weights(1)
    del sent["still"]
    transport.send(Bucket(list(sent.items()), 1))
    transport.commit(1)
    assert holds(copy, 1)
    assert "still" not in json.loads((folder_of(place.deltas, 1) / INDEX).read_text())["tensors"]
    for tensor, said in (
        (("new", torch.ones(2)), "new is not there in"),
        (("a", torch.ones(2)), "of another type"),
        (("a", torch.ones(30, 40)), "of another type or shape"),
        (("b", torch.ones(64, dtype=torch.float16)), "b is of another type or shape"),
    ):
        transport.send(Bucket([tensor], 2))
        with pytest.raises(TransferError, match=said):
            transport.commit(2)

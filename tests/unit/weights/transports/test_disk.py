"""Whole checkpoints on disk: what an engine finds there, what stays, and what a full disk leaves behind."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest
import torch
from one_rank import buckets, tensors
from safetensors.torch import load_file

from rlscale.config.errors import UserError
from rlscale.families.weight_files import INDEX
from rlscale.platform.weight_checksums import damaged_tensors
from rlscale.weights.safetensors_folder import SafetensorsFolder
from rlscale.weights.transports.disk import DiskTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import TransferError


class FolderEngine:
    """Reads folders as an engine does."""

    def __init__(self, url: str = "http://engine", fails: bool = False) -> None:
        self.url, self.fails = url, fails
        self.loaded: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.folders: list[Path] = []

    def receive_folder(self, folder: str, version: int) -> None:
        if self.fails:
            raise RuntimeError("no such folder")
        place = Path(folder)
        files = set(json.loads((place / INDEX).read_text())["weight_map"].values())
        self.loaded.append((version, {k: v for file in files for k, v in load_file(place / file).items()}))
        self.folders.append(place)


@pytest.fixture
def route(tmp_path: Path) -> Route:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", ".hidden"):
        (model / name).write_text(name)
    return Route(timeout_s=10.0, started_from=str(model), folder=str(tmp_path / "way"))


def publish(transport: DiskTransport, version: int) -> None:
    for bucket in buckets(version, seed=version):
        transport.send(bucket)
    transport.commit(version)


def test_engines_read_every_tensor_of_a_version_beside_config_and_tokenizer(rank: None, route: Route) -> None:
    engines = [FolderEngine(), FolderEngine()]
    transport = DiskTransport(route)
    transport.connect(engines)
    for version in (3, 4, 5):
        publish(transport, version)
        for engine in engines:
            number, found = engine.loaded[-1]
            assert number == version
            sent = tensors(buckets(version, seed=version))
            assert found.keys() == sent.keys()
            assert all(torch.equal(found[name], sent[name]) for name in sent)
    left = sorted(Path(str(route.folder)).iterdir())
    assert [path.name for path in left] == ["version_000004", "version_000005"]
    beside = {path.name for path in left[1].iterdir()}
    assert beside >= {"config.json", "tokenizer.json", "weight_checksums.json"}
    assert not beside & {"model.safetensors", ".hidden"}
    assert damaged_tensors(left[1]) == []


def test_a_version_that_is_sent_again_leaves_alone_what_engines_may_be_reading(rank: None, route: Route) -> None:
    engine, transport = FolderEngine(), DiskTransport(route)
    transport.connect([engine])
    publish(transport, 3)
    publish(transport, 3)
    assert [folder.name for folder in engine.folders] == ["version_000003", "version_000003-2"]


def test_engines_that_see_the_folder_elsewhere_are_told_their_path(rank: None, route: Route, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(tmp_path / "here")
    engine = FolderEngine()
    transport = DiskTransport(route, folder=str(tmp_path / "here"), folder_on_engines=str(tmp_path / "there"))
    transport.connect([engine])
    publish(transport, 1)
    assert engine.folders == [tmp_path / "there" / "way" / "version_000001"]


def test_an_engine_that_cannot_read_it_is_named(rank: None, route: Route) -> None:
    transport = DiskTransport(route)
    transport.connect([FolderEngine(), FolderEngine("http://far", fails=True)])
    with pytest.raises(TransferError, match="http://far did not take the weights: no such folder"):
        publish(transport, 1)


def test_a_full_disk_is_said_at_the_end_and_leaves_nothing(
    rank: None, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    engine, transport = FolderEngine(), DiskTransport(route)
    transport.connect([engine])
    with monkeypatch.context() as full:
        full.setattr(SafetensorsFolder, "add", refuse)
        for bucket in buckets(1):
            transport.send(bucket)
        with pytest.raises(TransferError, match=r"cannot be written to .*/way: .*No space left"):
            transport.commit(1)
    assert list(Path(str(route.folder)).iterdir()) == []
    assert engine.loaded == []
    publish(transport, 2)
    assert engine.loaded[0][0] == 2


def test_a_disk_that_is_full_while_a_file_is_open_leaves_nothing_either(rank: None, route: Route) -> None:
    """The system refuses to write behind the first bytes of a file, and so its end and its header too."""
    engine, transport = FolderEngine(), DiskTransport(route)
    transport.connect([engine])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for bucket in buckets(1):
            transport.send(bucket)
        with pytest.raises(TransferError, match=r"weights cannot be written to .*File too large"):
            transport.commit(1)
        transport.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(Path(str(route.folder)).iterdir()) == []


def test_a_version_that_is_given_up_half_way_leaves_nothing(rank: None, route: Route) -> None:
    transport = DiskTransport(route)
    transport.connect([FolderEngine()])
    transport.send(buckets(1)[0])
    transport.close()
    assert list(Path(str(route.folder)).iterdir()) == []


def test_large_weights_are_spread_over_files_that_the_index_names(tmp_path: Path) -> None:
    files = SafetensorsFolder(tmp_path, indexed=True, file_bytes=100)
    for name in "abc":
        files.add(name, torch.ones(20))
    files.close()
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(set(index["weight_map"].values())) == 3
    assert index["metadata"]["total_size"] == 240


def test_damage_is_found_tensor_by_tensor(tmp_path: Path) -> None:
    files = SafetensorsFolder(tmp_path, indexed=True)
    for name in "abc":
        files.add(name, torch.ones(20))
    files.close()
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-81] ^= 1
    file.write_bytes(content)
    assert damaged_tensors(tmp_path) == ["b"]


def test_without_a_folder_nobody_writes_anywhere() -> None:
    with pytest.raises(UserError, match=r"weights\.transport\.folder: .*name a folder"):
        DiskTransport(Route())


@pytest.mark.parametrize("transport", [DiskTransport, SharedMemoryTransport])
def test_a_receiver_that_lacks_what_a_transport_needs_is_named(rank: None, route: Route, transport: type) -> None:
    class Mute:
        url = "http://mute"

    lacking = "receive_folder" if transport is DiskTransport else "receive_tensors"
    with pytest.raises(TransferError, match=f"http://mute: its Mute has no {lacking}, which weights/transport="):
        transport(route).connect([Mute()])

"""The index of a checkpoint is read without running what is in it, and as torch reads it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex, TensorProperties

from rlscale.config.errors import UserError
from rlscale.weights.checkpoint_index import CheckpointReader, read_index
from tests.unit.payload import Payload, class_changing_index

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
_CODE = "rlscale did not write it so, and does not read it"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two tensors and an object."""
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "more": {"seed": 3}}
    checkpoint.save(state, checkpoint_id=str(tmp_path / "checkpoint"), no_dist=True)
    return tmp_path / "checkpoint"


def rewritten(folder: Path, change: Callable[[Metadata], Any]) -> None:
    """Let the index say something else."""
    index = pickle.loads((folder / ".metadata").read_bytes())
    change(index)
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def test_an_index_is_what_torch_reads_and_tensors_are_read_by_it(folder: Path) -> None:
    index, of_torch = read_index(folder), pickle.loads((folder / ".metadata").read_bytes())
    assert index.state_dict_metadata == of_torch.state_dict_metadata
    assert index.storage_data == of_torch.storage_data
    assert sorted(index.state_dict_metadata) == ["a", "b", "more.seed"]
    (folder / ".metadata").unlink()  # it is not read a second time
    read = {"a": torch.zeros(2, 3)}
    checkpoint.load(read, storage_reader=CheckpointReader(folder, index), no_dist=True)
    assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_index_that_fails_once_and_then_runs_code_changes_no_class_and_runs_none(folder: Path) -> None:
    ran = folder / "ran"
    (folder / ".metadata").write_bytes(class_changing_index(ran))
    for _ in range(2):
        with pytest.raises(UserError, match=r"checkpoint is damaged, or rlscale did not write it \(\.metadata: "):
            read_index(folder)
    assert "__setstate__" not in vars(BytesStorageMetadata)
    assert not ran.exists()


def _built(target: bytes, state: bytes) -> bytes:
    return pickle.PROTO + b"\x02" + target + state + pickle.BUILD + pickle.STOP


_METADATA = "torch.distributed.checkpoint.metadata"
_STATE = pickle.EMPTY_DICT + pickle.MARK + pickle.UNICODE + b"cache\n" + pickle.NONE + pickle.SETITEMS


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((_METADATA, name) for name in ("TensorProperties", "MetadataIndex", "_MEM_FORMAT_ENCODING")),
        *(("torch.serialization", "_get_layout"), ("torch", "Size"), ("torch", "float32")),
        *(("collections", "OrderedDict"), ("pathlib", "PosixPath")),
    ],
)
@pytest.mark.parametrize("slots", [False, True])
def test_nothing_that_an_index_may_name_can_be_changed_by_it(folder: Path, module: str, name: str, slots: bool) -> None:
    state = pickle.NONE + _STATE + pickle.TUPLE2 if slots else _STATE
    (folder / ".metadata").write_bytes(_built(pickle.GLOBAL + f"{module}\n{name}\n".encode(), state))
    with pytest.raises(UserError, match=rf"rlscale did not write it|{_CODE}"):
        read_index(folder)
    assert vars(TensorProperties).get("cache", "unchanged") == "unchanged"
    assert torch.serialization._get_layout.__dict__.get("cache", "unchanged") is not None
    assert "cache" not in vars(MetadataIndex)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04", b"\x80\x04N.", b"no pickle", b"\x80\x04\x95" + b"\xff" * 40, pickle.dumps({"a": 1})],
)
def test_garbage_is_a_line_that_names_the_file(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint is damaged, or rlscale did not write it \(\.metadata: ") as error:
        read_index(folder)
    assert len(str(error.value).splitlines()) == 1


def test_code_is_named(folder: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Payload(folder / "ran")))
    with pytest.raises(UserError, match=rf"\.metadata names code to be run \(pathlib\.[\w.]+\); {_CODE}"):
        read_index(folder)
    assert not (folder / "ran").exists()


def _places(**changed: Any) -> Callable[[Metadata], None]:
    def change(index: Metadata) -> None:
        key, place = next(iter(index.storage_data.items()))
        index.storage_data[key] = _StorageInfo(**{**vars(place), **changed})

    return change


def _kept(index: Metadata) -> None:
    index.storage_data = None


@pytest.mark.parametrize(
    "change",
    [
        *(_places(offset=-1), _places(length="9"), _places(relative_path=7), _places(offset=True)),
        *(_kept, lambda index: setattr(index.state_dict_metadata["a"], "size", (2, 3))),
        lambda index: setattr(index.state_dict_metadata["a"].properties, "dtype", "float32x"),
        lambda index: setattr(index.state_dict_metadata["a"], "chunks", None),
    ],
)
def test_numbers_and_words_that_no_index_has_are_refused(folder: Path, change: Callable[[Metadata], Any]) -> None:
    rewritten(folder, change)
    with pytest.raises(UserError, match=r"checkpoint is damaged, or rlscale did not write it \(\.metadata: "):
        read_index(folder)


@pytest.mark.parametrize("changed", [{"relative_path": "../x"}, {"relative_path": "/etc/passwd"}])
def test_files_elsewhere_are_refused(folder: Path, changed: dict[str, Any]) -> None:
    rewritten(folder, _places(**changed))
    with pytest.raises(UserError, match="names files outside of its folder"):
        read_index(folder)


@pytest.mark.parametrize("kind", ["pipe", "link", ".metadata", ".."])
def test_pipes_and_links_that_lead_out_are_refused_before_they_are_opened(folder: Path, kind: str) -> None:
    name = next(folder.glob("*.distcp")).name
    if kind == "..":
        rewritten(folder, _places(relative_path=".."))
    else:
        name = kind if kind == ".metadata" else name
        (folder / name).unlink()
        if kind == "link":
            (folder / name).symlink_to("/etc/hostname")
        else:
            os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"checkpoint is damaged, or rlscale did not write it \("):
        read_index(folder)


def test_the_index_of_a_large_model_is_read_in_seconds(tmp_path: Path) -> None:
    count = 20_000
    names = [f"decoder.layers.{number}.weight" for number in range(count)]
    state = {name: torch.zeros(1, 1) for name in names[:1]}
    checkpoint.save(dict(state), checkpoint_id=str(tmp_path / "large"), no_dist=True)
    folder = tmp_path / "large"

    def grow(index: Metadata) -> None:
        about, (key, place) = index.state_dict_metadata[names[0]], next(iter(index.storage_data.items()))
        index.state_dict_metadata = dict.fromkeys(names, about)
        index.storage_data = {MetadataIndex(name, key.offset, key.index): place for name in names}

    rewritten(folder, grow)
    assert len(read_index(folder).storage_data) == count

"""Objects in a checkpoint are read only where they are plain, whatever else they are."""

from __future__ import annotations

import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.disk.code_in_checkpoint import plain_object, read_common, refuse_code
from tests.unit.payload import Payload
from tests.unit.torchscript_archive import torchscript

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "error:.*TorchScript")


def saved(value: object) -> bytes:
    """An object as torch saves it."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def old_archive(ran: Path) -> bytes:
    """torch's first form, a tar archive of pickles."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            pickled = pickle.dumps(Payload(ran))
            entry = tarfile.TarInfo(name)
            entry.size = len(pickled)
            archive.addfile(entry, io.BytesIO(pickled))
    return content.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a tensor and an object."""
    state = {"weight": torch.zeros(2), "random": np.arange(3, dtype=np.uint32)}
    checkpoint.save(state, checkpoint_id=str(tmp_path / "checkpoint"), no_dist=True)
    (tmp_path / "checkpoint" / "common.pt").write_bytes(saved({"schedule": {"steps": 3}}))
    return tmp_path / "checkpoint"


def plant(folder: Path, content: bytes) -> None:
    """Let the object of the ranks' file be these bytes."""
    index = pickle.loads((folder / ".metadata").read_bytes())
    (key,) = (key for key in index.storage_data if isinstance(index.state_dict_metadata[key.fqn], BytesStorageMetadata))
    place = index.storage_data[key]
    file = folder / place.relative_path
    index.storage_data[key] = replace(place, offset=file.stat().st_size, length=len(content))
    with open(file, "ab") as grown:
        grown.write(content)
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def test_plain_objects_are_read(folder: Path) -> None:
    assert list(refuse_code(folder).state_dict_metadata) == ["weight", "random"]
    assert read_common(folder) == {"schedule": {"steps": 3}}
    assert plain_object(saved({"a": np.arange(3, dtype=np.uint32), "b": (1, "x")}), folder)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("where", ["object", "common.pt"])
@pytest.mark.parametrize("kind", [torchscript, old_archive])
def test_torchscript_and_old_archives_are_refused_by_the_name_of_the_file(
    folder: Path, tmp_path: Path, kind: object, where: str
) -> None:
    ran = tmp_path / "ran"
    content = torchscript(ran) if kind is torchscript else old_archive(ran)
    ran.unlink(missing_ok=True)
    if where == "object":
        plant(folder, content)
    else:
        (folder / where).write_bytes(content)
    name = where if where != "object" else r"__0_0\.distcp"
    with pytest.raises(UserError, match=rf"checkpoint is damaged, or rlscale did not write it \({name}: ") as error:
        refuse_code(folder)
    assert not ran.exists()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage", saved({"a": 1})[:-40]])
def test_every_other_failure_is_a_refusal_too(folder: Path, content: bytes) -> None:
    plant(folder, content)
    with pytest.raises(UserError, match=r"__0_0\.distcp"):
        refuse_code(folder)


def test_the_variable_that_turns_torchs_restrictions_off_does_not_turn_these_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (folder / "common.pt").write_bytes(saved(Payload(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"common\.pt names code to be run \(\w+"):
        read_common(folder)
    assert not (tmp_path / "ran").exists()


def test_common_that_is_no_mapping_is_refused(folder: Path) -> None:
    (folder / "common.pt").write_bytes(saved([1]))
    with pytest.raises(UserError, match=r"common\.pt holds what a checkpoint does not"):
        read_common(folder)

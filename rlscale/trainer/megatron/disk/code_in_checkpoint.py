"""Refusing a checkpoint that would run code, before torch and Megatron read it.

Three things in a distributed checkpoint are pickles: `.metadata`, common.pt, and objects that are not tensors (random
states) inside the ranks' files. torch reads the first and the last with the unpickler that calls whatever they name. So
each is read here first by one that knows only what such a checkpoint is made of: the folder may be somebody else's.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from rlscale.config.errors import UserError

_OBJECTS = "torch.distributed.checkpoint.metadata"
_INDEX = {
    (_OBJECTS, name)
    for name in (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("collections", "OrderedDict"),
}
"""What torch's index of a checkpoint is made of, besides torch's types of numbers. None of it does anything when it is
called but to hold what it is given."""


class _Refused(pickle.UnpicklingError):
    """A name that is not looked up; the message is the name."""


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(vars(torch).get(name), torch.dtype)
        if (module, name) not in _INDEX and not is_type:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)


def refuse_code(folder: str | Path, part: int = 0, parts: int = 1) -> None:
    """UserError naming the file that would run code, or that is no part of such a checkpoint.

    Of the objects in the ranks' files each of `parts` readers looks at its own `part`. Damage of other kinds passes: it
    is said where the file is read.
    """
    folder = Path(folder)
    index = _index(folder)
    _is_plain(folder / "common.pt", lambda file: file.read())
    if index is None:
        return
    objects = sorted(
        (place.relative_path, place.offset, place.length)
        for key, place in (index.storage_data or {}).items()
        if isinstance(index.state_dict_metadata.get(key.fqn), BytesStorageMetadata)
    )
    for name, offset, length in objects[part::parts]:
        _is_plain(folder / name, lambda file, start=offset, size=length: _slice(file, start, size))


def _index(folder: Path) -> Metadata | None:
    """The checkpoint's index; None for one that is missing or damaged."""
    try:
        with open(folder / ".metadata", "rb") as file:
            index = _IndexUnpickler(file).load()
    except _Refused as error:
        raise _error(folder / ".metadata", str(error)) from error
    except Exception:  # whatever garbage makes of an unpickler: reading it says so
        return None
    places = index.storage_data.values() if isinstance(index, Metadata) and index.storage_data else ()
    if not isinstance(index, Metadata) or not all(isinstance(place, _StorageInfo) for place in places):
        raise UserError(f"{folder / '.metadata'} is not the index of a checkpoint; use another one")
    for place in places:
        if Path(place.relative_path).name != str(place.relative_path) or place.transform_descriptors:
            raise UserError(f"{folder / '.metadata'} names files outside of its folder; use another checkpoint")
    return index


def _slice(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    content: bytes = file.read(size)
    return content


def _is_plain(path: Path, read: Any) -> None:
    """UserError for an object that torch's own restricted unpickler refuses."""
    known: list[Any] = [np.ndarray, np.dtype, np.dtypes.UInt32DType]
    rebuild = np.zeros(0).__reduce__()[0]  # NumPy's own function; its module has another name in NumPy 1
    known += [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    try:
        with open(path, "rb") as file:
            content = read(file)
    except OSError:
        return
    try:
        with torch.serialization.safe_globals(known):
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, found, named = str(error).partition("GLOBAL ")
        if found:
            raise _error(path, named.split()[0]) from error
        raise _error(path, "") from error
    except Exception:
        return  # cut off or overwritten, which is said where it is read


def _error(path: Path, name: str) -> UserError:
    what = f"names code to be run ({name})" if name else "holds what a checkpoint does not"
    return UserError(f"{path} {what}; rlscale did not write it so, and does not read it")

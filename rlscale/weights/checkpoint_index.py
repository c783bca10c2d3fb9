"""The index of a distributed checkpoint, torch's `.metadata`, read without running what a stranger may have put there.

The file is a pickle, and torch reads it with the unpickler that calls whatever it names. Here every name stands for
an empty class that cannot be changed, which keeps what it is given. torch's own objects are made from these afterwards,
each number and word looked at, and are what tensors are then read by: nothing reads the file a second time.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from rlscale.config.errors import UserError, first_line
from rlscale.families.inner_file import inner_file

INDEX = ".metadata"
"""torch's file that says which tensors lie where."""
_TYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last, torch.preserve_format)
"""In the order of torch's numbers for them in a checkpoint."""


_TOLD = (OSError, EOFError, ValueError, pickle.UnpicklingError)
"""Errors that say something of the file; others speak of what reads it."""


class NamesCode(pickle.UnpicklingError):
    """A pickle names what is no part of a checkpoint; the message is the name."""


class _Unchangeable(type):
    """Classes that a pickle cannot change: it may set attributes of whatever it names."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise NamesCode(f"{cls.__name__}.{name}")


class _Said(metaclass=_Unchangeable):
    """Something of the index: what it was called with, and what it was then told to be."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Said:
        said = super().__new__(cls)
        said.args, said.state = args, None
        return said

    def __setstate__(self, state: Any) -> None:
        self.state = state


_OBJECTS = "torch.distributed.checkpoint.metadata"
_KNOWN: dict[tuple[str, str], Any] = {
    (module, name): _Unchangeable(name, (_Said,), {"__slots__": ()})
    for module, name in (
        *((_OBJECTS, kind.__name__) for kind in (BytesStorageMetadata, ChunkStorageMetadata, Metadata, MetadataIndex)),
        *((_OBJECTS, kind.__name__) for kind in (StorageMeta, TensorProperties, TensorStorageMetadata)),
        (_OBJECTS, "_MEM_FORMAT_ENCODING"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("pathlib", "PosixPath"),
    )
}
_KNOWN["collections", "OrderedDict"] = OrderedDict  # of C: neither can it be changed
_KNOWN |= {("torch", name): name for name in _TYPES}
"""What stands for each name that torch writes into an index; for a type of numbers its own name."""


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise NamesCode(f"{module}.{name}") from None


class CheckpointReader(FileSystemReader):
    """torch's reader of a checkpoint, with an index that was read before."""

    def __init__(self, folder: str | Path, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """The index, whoever asks: torch would read the file of a rank where that of all ranks fails."""
        return self._index


def read_index(folder: str | Path) -> Metadata:
    """The index of a checkpoint. UserError for one that is missing or damaged, and for one that torch did not write."""
    file = Path(folder) / INDEX
    try:
        with open(inner_file(folder, INDEX), "rb") as content:
            said = _IndexUnpickler(content).load()
        index = _index(said)
    except NamesCode as error:
        raise UserError(
            f"{file} names code to be run ({error}); rlscale did not write it so, and does not read it"
        ) from error
    except Exception as error:  # whatever garbage makes of an unpickler; none of it may go on to torch's own
        said = error if isinstance(error, _TOLD) else ValueError("its content is not that of an index")
        raise unreadable(file, said) from error
    _check_places(file, index)
    return index


def unreadable(file: Path, error: Exception) -> UserError:
    """The error for a part of a checkpoint that is damaged, or that no trainer has written."""
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    else:
        said = first_line(error).partition(". ")[0][:200]
    return UserError(
        f"{file.parent} is damaged, or rlscale did not write it ({file.name}: {said}); use another checkpoint, "
        "or a copy of this one that is whole"
    )


def _check_places(file: Path, index: Metadata) -> None:
    """UserError for an index by which files elsewhere would be read, or code that transforms their bytes."""
    places = index.storage_data.values()
    names = {place.relative_path for place in places}
    if any(Path(name).name != name for name in names) or any(place.transform_descriptors for place in places):
        raise UserError(f"{file} names files outside of its folder; use another checkpoint")
    for name in names:
        try:
            inner_file(file.parent, name)
        except FileNotFoundError:
            continue  # reading it says so
        except OSError as error:
            raise unreadable(file.parent / name, error) from error


def _index(said: Any) -> Metadata:
    """torch's index, of what its file says. ValueError for anything else."""
    state = _state(said, "Metadata")
    tensors, places = _dict(state["state_dict_metadata"]), _dict(state["storage_data"])
    return Metadata(
        state_dict_metadata={_text(name): _entry(about) for name, about in tensors.items()},
        storage_data={_key(key): _place(place) for key, place in places.items()},
        storage_meta=StorageMeta(),
    )


def _entry(said: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if _is(said, "BytesStorageMetadata"):
        return BytesStorageMetadata()
    state = _state(said, "TensorStorageMetadata")
    return TensorStorageMetadata(
        _properties(state["properties"]), _size(state["size"]), [_chunk(chunk) for chunk in state["chunks"]]
    )


def _properties(said: Any) -> TensorProperties:
    if not _is(said, "TensorProperties") or not isinstance(said.state, tuple):
        raise _wrong(said)
    dtype, layout, needs_gradient, memory_format, pinned = said.state
    if not _is(layout, "_get_layout") or layout.args != ("torch.strided",) or not _is(memory_format, _MEMORY_FORMAT):
        raise _wrong(said)
    (format_number,) = memory_format.args
    return TensorProperties(
        dtype=_TYPES[_text(dtype)],
        requires_grad=bool(needs_gradient),
        memory_format=_MEMORY_FORMATS[_count(format_number)],
        pin_memory=bool(pinned),
    )


_MEMORY_FORMAT = "_MEM_FORMAT_ENCODING"


def _chunk(said: Any) -> ChunkStorageMetadata:
    state = _state(said, "ChunkStorageMetadata")
    return ChunkStorageMetadata(_size(state["offsets"]), _size(state["sizes"]))


def _key(said: Any) -> MetadataIndex:
    state = _state(said, "MetadataIndex")
    offset, index = state.get("offset"), state.get("index")
    return MetadataIndex(
        _text(state["fqn"]),
        None if offset is None else _size(offset),
        None if index is None else _count(index),
    )


def _place(said: Any) -> _StorageInfo:
    state = _state(said, "_StorageInfo")
    transforms = [_text(one) for one in state.get("transform_descriptors") or ()]
    return _StorageInfo(
        _text(state["relative_path"]), _count(state["offset"]), _count(state["length"]), transforms or None
    )


def _size(said: Any) -> torch.Size:
    if not _is(said, "Size"):
        raise _wrong(said)
    (numbers,) = said.args
    return torch.Size(_count(number) for number in numbers)


def _is(said: Any, kind: str) -> bool:
    return isinstance(said, _Said) and type(said).__name__ == kind


def _state(said: Any, kind: str) -> dict[str, Any]:
    if not _is(said, kind):
        raise _wrong(said)
    return _dict(said.state)


def _dict(said: Any) -> dict[Any, Any]:
    if not isinstance(said, dict):
        raise _wrong(said)
    return said


def _text(said: Any) -> str:
    if type(said) is not str:
        raise _wrong(said)
    return said


def _count(said: Any) -> int:
    if type(said) is not int or said < 0:
        raise _wrong(said)
    return said


def _wrong(said: Any) -> ValueError:
    return ValueError(f"{type(said).__name__} where the index of a checkpoint has something else")

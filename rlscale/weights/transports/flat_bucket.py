"""A bucket as one flat tensor of bytes and a table of contents, pickled so that SGLang's server can load it.

SGLang's `load_format="flattened_bucket"` takes {"flattened_tensor", "metadata"}; of the metadata it reads attributes
only, and its unpickler allows Python's and torch's own types, so nothing of SGLang is needed to write it. Neither do
the bytes travel: the pickle says how to map a file in shared memory (`torch.from_file`), or names a CUDA IPC handle.
Through HTTP, base64 and JSON the same bytes would take five times as long.
"""

from __future__ import annotations

import base64
import functools
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor

from rlscale.platform import weight_checksums

LOAD_FORMAT = "flattened_bucket"
ALIGNMENT = 16
"""Bytes; where a tensor begins, so that any type can be read in place."""

_PIECE = 2**19
"""Bytes that are copied and summed up at a time: a part of what a core's own cache holds."""
_PREFIX = "rlscale-weights-"


def contents(named: Sequence[tuple[str, Tensor]]) -> tuple[list[SimpleNamespace], int]:
    """Where each tensor is in the flat bytes, and how many bytes there are."""
    entries, position = [], 0
    for name, tensor in named:
        position = -(-position // ALIGNMENT) * ALIGNMENT
        end = position + tensor.nbytes
        entries.append(
            SimpleNamespace(
                name=name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                start_idx=position,
                end_idx=end,
                numel=tensor.nbytes,
            )
        )
        position = end
    return entries, position


def fill(flat: Tensor, named: Sequence[tuple[str, Tensor]], entries: Sequence[SimpleNamespace]) -> None:
    """Copy the tensors into the flat bytes."""
    for (_, tensor), entry in zip(named, entries, strict=True):
        flat[entry.start_idx : entry.end_idx].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def fill_summed(flat: Tensor, named: Sequence[tuple[str, Tensor]], entries: Sequence[SimpleNamespace]) -> str:
    """The same on the CPU, and the checksum (`sum_of`) of what is there then.

    Piece by piece, so that a piece is still in the processor's cache when it is summed up: reading all of it again
    would cost two thirds of copying it.
    """
    bytes_of, running, done = flat.numpy(), weight_checksums.Running(), 0
    for (_, tensor), entry in zip(named, entries, strict=True):
        running.add(bytes_of[done : entry.start_idx].data)  # what is between two tensors
        source = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        target = bytes_of[entry.start_idx : entry.end_idx]
        for first in range(0, len(source), _PIECE):
            piece = target[first : first + _PIECE]
            piece[:] = source[first : first + _PIECE]
            running.add(piece.data)
        done = entry.end_idx
    return running.checksum()


def dump(flat: Any, entries: Sequence[SimpleNamespace], **more: str) -> str:
    """The base64 pickle that an engine loads; `flat` is anything that unpickles to the flat bytes.

    `more` is what an engine of ours also looks at, while SGLang as it comes does not: under CHECKSUM the checksum
    (`sum_of`) that is verified before anything is loaded, under FILE the path where the flat bytes are.
    """
    return base64.b64encode(pickle.dumps({"flattened_tensor": flat, "metadata": list(entries), **more})).decode()


def sum_of(flat: Tensor, size: int) -> str:
    """The checksum of the first `size` flat bytes, on the CPU."""
    return weight_checksums.checksum(flat[:size].numpy().data)


class Rebuild:
    """Unpickles to the result of calling a function that the reader has."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._how = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._how


class SharedBytes:
    """Bytes in a file that lives in memory, which processes of one machine map instead of sending each other."""

    def __init__(self, size: int) -> None:
        """OSError when there is no room."""
        handle, name = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_folder(size))
        self.path = Path(name)
        try:
            os.posix_fallocate(handle, 0, max(size, 1))  # a full file system is an error here, not a crash at the write
            self.flat: Tensor = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(handle)

    def reader(self) -> Rebuild:
        """What unpickles to the bytes in another process."""
        # Not shared: the reader maps the same memory, but a file that is gone is an error and not made anew, empty.
        mapping = functools.partial(torch.from_file, shared=False, size=self.flat.numel(), dtype=torch.uint8)
        return Rebuild(mapping, (str(self.path),))

    def remove(self) -> None:
        """Forget the file; who has mapped it keeps the bytes."""
        self.path.unlink(missing_ok=True)


def remove_leftovers() -> None:
    """Remove files of processes that were killed in the middle of a transfer."""
    for folder in {_folder(0), Path(tempfile.gettempdir())}:
        for path in folder.glob(f"{_PREFIX}*"):
            owner = path.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                path.unlink(missing_ok=True)


def _folder(size: int) -> Path:
    """A folder in memory with room for that many bytes, else the one for temporary files."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > size:
        return memory
    return Path(tempfile.gettempdir())

"""The file that holds the rollout's part of a checkpoint: data position, buffer with its samples, counters.

A header says how long the content is and what its checksum is, so that a file that was cut off or changed anywhere is
an error that says so, and never another buffer than the one that was saved.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, BinaryIO

from rlscale.config.errors import UserError
from rlscale.trainer.checksums import running_checksum

NAME = "rollout.state"
"""The file's name in a checkpoint."""
_MAGIC = b"rlscale2"
_HEADER = struct.Struct("<8sQ16s")
"""What begins the file: the magic, the length of the content in bytes, and its XXH3 with 128 bits."""
_AGAIN = "checkpoint.resume=never starts afresh"


class RolloutStateDamaged(UserError):
    """The file is not what was written."""


class _Summing:
    """Passes on what is written, and keeps count and checksum of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = 0
        self.sum = running_checksum()

    def write(self, piece: bytes | memoryview) -> int:
        self.length += len(memoryview(piece).cast("B"))
        self.sum.update(piece)
        return self._file.write(piece)


def write_rollout_state(path: Path, state: Any) -> None:
    """Write a state, which is picklable, piece by piece: a large buffer is not held twice. OSError from the disk."""
    with open(path, "wb") as file:
        file.write(bytes(_HEADER.size))
        content = _Summing(file)
        pickle.dump(state, content, protocol=pickle.HIGHEST_PROTOCOL)
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, content.length, content.sum.digest()))


def read_rollout_state(path: Path) -> Any:
    """The state that was written. RolloutStateDamaged for a file that was cut off or changed, UserError for one that
    another version of rlscale wrote."""
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise RolloutStateDamaged(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error
    if len(whole) < _HEADER.size:
        raise RolloutStateDamaged(f"{path} is cut off: it has {len(whole)} bytes; {_AGAIN}")
    magic, length, digest = _HEADER.unpack_from(whole)
    content = memoryview(whole)[_HEADER.size :]
    if magic != _MAGIC:
        raise _other_version(path)
    if len(content) != length:
        what = "is cut off" if len(content) < length else "is not what was written"
        raise RolloutStateDamaged(f"{path} {what}: it has {len(content):,} bytes instead of {length:,}; {_AGAIN}")
    if running_checksum(content).digest() != digest:
        raise RolloutStateDamaged(f"{path} is not what was written (the checksum differs); {_AGAIN}")
    try:
        return pickle.loads(content)
    except (pickle.UnpicklingError, AttributeError, ImportError, EOFError) as error:
        raise _other_version(path) from error


def _other_version(path: Path) -> UserError:
    return UserError(f"{path.parent} was written by another version of rlscale; {_AGAIN}")

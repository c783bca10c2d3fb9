"""The file that holds the rollout's part of a checkpoint: data position, buffer with its samples, counters.

A header says how long the content is and what its checksum is, so that a file that was cut off or changed anywhere is
an error that says so, and never another buffer than the one that was saved. The content is read without running
anything (`state_encoding`): a run's folder may come from somebody else.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from rlscale.config.errors import UserError
from rlscale.families.inner_file import inner_file
from rlscale.rollout.state_encoding import Encoder, Malformed, NotPlain, decode
from rlscale.trainer.checksums import running_checksum

NAME = "rollout.state"
"""The file's name in a checkpoint."""
_MAGIC = b"rlscale3"
_HEADER = struct.Struct("<8sQQ16s")
"""What begins the file: the magic, the lengths in bytes of the content and of its last part, which is the values
without their arrays, and the content's XXH3 with 128 bits."""
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
        self.length += len(piece)
        self.sum.update(piece)
        return self._file.write(piece)


def write_rollout_state(path: Path, state: Any) -> None:
    """Write a state array by array: a large buffer is not held twice. OSError from the disk, UserError for a value that
    is neither plain nor an array nor one of the records of `state_encoding`."""
    with open(path, "wb") as file:
        file.write(bytes(_HEADER.size))
        content = _Summing(file)
        try:
            tree = Encoder(content.write).encode(state)
        except NotPlain as error:
            raise UserError(
                f"{path.parent} cannot be written: {error}; a checkpoint holds plain values, NumPy arrays, prompts and "
                "samples"
            ) from error
        content.write(tree)
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, content.length, len(tree), content.sum.digest()))


def read_rollout_state(path: Path) -> Any:
    """The state that was written. RolloutStateDamaged for a file that was cut off or changed, UserError for one that
    another version of rlscale wrote."""
    try:
        whole = inner_file(path.parent, path.name).read_bytes()
    except OSError as error:
        raise RolloutStateDamaged(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error
    if len(whole) < _HEADER.size:
        raise RolloutStateDamaged(f"{path} is cut off: it has {len(whole)} bytes; {_AGAIN}")
    magic, length, last, digest = _HEADER.unpack_from(whole)
    content = memoryview(whole)[_HEADER.size :]
    if magic != _MAGIC or last > length:
        raise _other_version(path)
    if len(content) != length:
        what = "is cut off" if len(content) < length else "is not what was written"
        raise RolloutStateDamaged(f"{path} {what}: it has {len(content):,} bytes instead of {length:,}; {_AGAIN}")
    if running_checksum(content).digest() != digest:
        raise RolloutStateDamaged(f"{path} is not what was written (the checksum differs); {_AGAIN}")
    try:
        return decode(content[length - last :], content[: length - last])
    except Malformed as error:
        raise _other_version(path) from error


def _other_version(path: Path) -> UserError:
    return UserError(f"{path.parent} was written by another version of rlscale; {_AGAIN}")

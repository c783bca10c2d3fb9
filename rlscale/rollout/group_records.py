"""Files of finished groups, one record after another: written as they finish, read after everything was killed.

Each record says how long it is and what its checksum is, so a file that was cut off or changed anywhere gives the
groups before that place and a line that says so, and never another group than the one that was written. Reading runs
nothing (`state_encoding`).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NewType

import xxhash

from rlscale.data.sample import Group
from rlscale.families.inner_file import inner_file
from rlscale.rollout.state_encoding import Encoder, Malformed, decode

_MAGIC = b"rlgroup2"
Origin = NewType("Origin", bytes)
"""What groups are made of (`group_origin`), as 16 bytes behind the first ones of a file."""
UNKNOWN = Origin(bytes(16))
"""For who writes and reads files and has no run."""
_BEGIN = len(_MAGIC) + len(UNKNOWN)
_LENGTHS = struct.Struct("<QQ")
"""What begins a record: the lengths in bytes of its content, and of the content's last part, which is the values
without their arrays. The XXH3 with 128 bits of the lengths and the content follows."""
_SUM = 16
_HEADER = _LENGTHS.size + _SUM


class GroupWriter:
    """Appends groups to a file that does not exist yet."""

    def __init__(self, path: Path, origin: Origin = UNKNOWN) -> None:
        """OSError where it cannot be made; then there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._whole = 0
        try:
            self._append(_MAGIC + origin)
        except OSError:
            self.close()
            path.unlink(missing_ok=True)
            raise

    def write(self, group: Group) -> None:
        """Append one. NotPlain for a group that has no encoding, OSError from the disk; then it is not in the file."""
        arrays: list[bytes] = []
        tree = Encoder(lambda piece: arrays.append(bytes(piece))).encode(group)
        content = b"".join([*arrays, tree])
        lengths = _LENGTHS.pack(len(content), len(tree))
        self._append(b"".join([lengths, _sum(lengths, content), content]))

    def close(self) -> None:
        """Nothing follows."""
        os.close(self._file)

    def _append(self, piece: bytes) -> None:
        """All of it, or nothing: what a full disk took is taken back, as records behind half of one cannot be read."""
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._whole)
            raise
        self._whole += len(piece)


def read_groups(path: Path, origin: Origin = UNKNOWN) -> tuple[list[Group], str | None]:
    """The groups of a file, in their order, and why there may have been more; None where it is whole. None of a file of
    another origin."""
    try:
        content = memoryview(inner_file(path.parent, path.name).read_bytes())
    except OSError as error:
        return [], f"{path} cannot be read ({error.strerror})"
    if content[: len(_MAGIC)] != _MAGIC or len(content) < _BEGIN:
        return [], f"{path} is cut off or not one that rlscale writes"
    if content[len(_MAGIC) : _BEGIN] != origin:
        return [], f"{path} has groups of other data, or of other rewards or their code"
    groups: list[Group] = []
    place = _BEGIN
    while place < len(content):
        record = _record(content[place:])
        if record is None:
            return groups, f"{path} is cut off or changed after {len(groups)} groups, at byte {place:,}"
        length, last = _LENGTHS.unpack_from(record)
        body = record[_HEADER:]
        try:
            groups.append(decode(body[length - last :], body[: length - last]))
        except Malformed:
            return groups, f"{path} was written by another version of rlscale"
        place += len(record)
    return groups, None


def _record(content: memoryview) -> memoryview | None:
    """The first record, whole; None where what lies there is none."""
    if len(content) < _HEADER:
        return None
    length, last = _LENGTHS.unpack_from(content)
    if last > length or length > len(content) - _HEADER:
        return None
    body = content[_HEADER : _HEADER + length]
    if _sum(content[: _LENGTHS.size], body) != content[_LENGTHS.size : _HEADER]:
        return None
    return content[: _HEADER + length]


def _sum(lengths: bytes | memoryview, content: bytes | memoryview) -> bytes:
    state = xxhash.xxh3_128(lengths)
    state.update(content)
    return state.digest()

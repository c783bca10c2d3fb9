"""Checksums of weights on their way: written by whoever sends them, verified by whoever loads them.

XXH3: it finds damage, is no signature, and is faster than memory is copied.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import xxhash

from rlscale.families.config_file import read_json
from rlscale.families.family import FolderError
from rlscale.families.weight_files import SUMS, TensorEntry, tensors_of


def checksum(content: bytes | memoryview | mmap.mmap) -> str:
    """XXH3 with 128 bits of some bytes, as 32 hex digits."""
    return xxhash.xxh3_128(content).hexdigest()


class Running:
    """The same of bytes that come one part after another."""

    def __init__(self) -> None:
        self._sum = xxhash.xxh3_128()

    def add(self, content: bytes | memoryview) -> None:
        """The next part."""
        self._sum.update(content)

    def checksum(self) -> str:
        """Of all parts so far, as if they were one."""
        return self._sum.hexdigest()


def sums_beside(folder: Path) -> dict[str, str]:
    """The checksums of a folder's tensors, by name; {} where it has none. FolderError for a SUMS of another shape."""
    file = folder / SUMS
    if not file.is_file():
        return {}
    sums = read_json(file)
    if not all(isinstance(value, str) for value in sums.values()):
        raise FolderError(f"{SUMS} is not a file that rlscale writes")
    return sums


def damaged_tensors(folder: Path) -> list[str]:
    """The tensors of a folder that are not those of its SUMS, in order of names; [] also where it has no SUMS.

    A tensor that only one of the two knows is damaged too. FolderError for files that no safetensors file is like,
    OSError where they cannot be read.
    """
    if not (folder / SUMS).is_file():
        return []
    expected = sums_beside(folder)
    entries = tensors_of(folder)
    differ = set(expected) ^ set(entries)
    for file in {entry.file for entry in entries.values()}:
        own = {name: entry for name, entry in entries.items() if entry.file == file and name in expected}
        differ |= {name for name, found in _sums_of(file, own).items() if found != expected[name]}
    return sorted(differ)


def _sums_of(file: Path, entries: dict[str, TensorEntry]) -> dict[str, str]:
    """The checksum of each of these tensors of one file."""
    with (
        open(file, "rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        return {name: _sum_of(view, entry) for name, entry in entries.items()}


def _sum_of(file: memoryview, entry: TensorEntry) -> str:
    with file[entry.start : entry.end] as part:  # a part that is still looked at keeps the file from being closed
        return checksum(part)

"""Checksums of a checkpoint's files, so that one that was damaged on disk is not trained on.

XXH3 with 128 bits: it finds damage, is not a signature, and is several times faster than a disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import xxhash

from rlscale.config.errors import UserError
from rlscale.families.inner_file import inner_file

SUMS = "checksums.json"
"""The file in a trainer's checkpoint that holds the checksums of all others, by name."""
_PIECE = 8 << 20


def running_checksum(begin: bytes | memoryview = b"") -> xxhash.xxh3_128:
    """The checksum of `begin` and of what it is given by `update`; `digest()` is 16 bytes."""
    return xxhash.xxh3_128(begin)


def checksum(file: Path) -> str:
    """The checksum of a file's content, as 32 hex digits. OSError where it cannot be read."""
    state = running_checksum()
    with open(file, "rb") as content:
        while piece := content.read(_PIECE):
            state.update(piece)
    return state.hexdigest()


def read_sums(folder: str | Path) -> dict[str, str]:
    """What SUMS in a folder says; {} where there is none. UserError for a file of another shape."""
    file = Path(folder) / SUMS
    try:
        sums = json.loads(inner_file(folder, SUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}), so the checkpoint beside it may be damaged too") from error
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise UserError(f"{file} is not a file that rlscale writes")
    return sums


def damaged(folder: str | Path, sums: Mapping[str, str], rank: int = 0, ranks: int = 1) -> list[str]:
    """The files of `sums`, as far as they are this rank's to look at, whose content is not what was written, or cannot
    be read."""
    files = {name: _file(folder, name) for name in sums}
    # The largest first and dealt out in turn: ranks then have about as much to read.
    own = sorted(sums, key=lambda name: (-_size(files[name]), name))[rank::ranks]
    return [name for name in own if not _is_as_written(files[name], sums[name])]


def _file(folder: str | Path, name: str) -> Path | None:
    """None where there is none of that name, or it is no file within the folder."""
    try:
        return inner_file(folder, name)
    except OSError:
        return None


def _size(file: Path | None) -> int:
    try:
        return 0 if file is None else file.stat().st_size
    except OSError:
        return 0


def _is_as_written(file: Path | None, wanted: str) -> bool:
    try:
        return file is not None and checksum(file) == wanted
    except OSError:  # its disk does not give it back
        return False

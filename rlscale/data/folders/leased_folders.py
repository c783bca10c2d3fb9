"""Folders that are kept for later runs, but not for ever: those in use, and the few that were used last.

A run leases the folder that its engines start from, as long as it lives: a lock on a file beside it, which ends with
the process whatever ends that.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rlscale.config.own_files import open_lock

KEPT = 4
"""Folders that stay although nobody uses them."""
_LEASE = ".lease"
_GOING = ".removed-"
"""In the name of a folder that nobody can lease any more, and in no other."""


class Lease:
    """The use of a folder, until `end`."""

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder, self._file = folder, file

    def end(self) -> None:
        """Nobody needs it here any more."""
        self._file.close()


def lease(make: Callable[[], Path]) -> Lease:
    """Use the folder that `make` gives, which makes it where it is not there. OSError when the disk refuses."""
    while True:
        folder = make()
        file = open_lock(_lease_of(folder))  # open as long as the folder is used
        fcntl.flock(file, fcntl.LOCK_SH)
        if folder.is_dir():  # else another run removed it before it was locked
            os.utime(file.fileno())
            return Lease(folder, file)
        file.close()


def remove_unused(parent: Path, keep: int = KEPT) -> list[str]:
    """Remove the leased folders in `parent` that nobody uses, but for `keep` of them that were used last; their names.

    Others may do the same meanwhile. What one of them left who was killed in the middle goes too.
    """
    known = [path for path in parent.iterdir() if path.is_dir() and _lease_of(path).exists()]
    known.sort(key=lambda path: _lease_of(path).stat().st_mtime_ns, reverse=True)
    kept, removed = 0, []
    for folder in known:
        with open_lock(_lease_of(folder)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # in use
            if not folder.is_dir():
                continue  # somebody else was faster
            kept += 1
            if kept > keep:  # it goes whole, as it came
                os.rename(folder, folder.with_name(f".{folder.name}{_GOING}{secrets.token_hex(6)}"))
                removed.append(folder.name)
    for aside in parent.glob(f".*{_GOING}*"):
        shutil.rmtree(aside, ignore_errors=True)
    return removed


def _lease_of(folder: Path) -> Path:
    """Its file stays when the folder goes: two locks on two files of one name would both be had."""
    return folder.with_name(folder.name + _LEASE)

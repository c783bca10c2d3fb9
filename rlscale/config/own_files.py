"""Files whose names somebody else may have used before: a run's folder may have come from a stranger.

A link of that name would lead the writing to any file of the user's. So a file is made anew and put in its place, and
one that is kept (a lock, a log) is refused where it is a link. Links in the place of *folders* are followed: so do
checkpoints come to lie on another disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rlscale.config.errors import UserError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class NotOwnFile(UserError):
    """There is something of that name which is no file."""


@contextmanager
def replaced(path: Path, *, mode: int | None = None, sync: bool = False, by: str = "") -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end: a reader sees the old one or the new one, never half of it.

    `mode`: who may read it; otherwise the umask says so. `sync`: forced to disk before. `by`: tells apart several that
    write the same file. OSError from the disk, also where a folder has its name.
    """
    partial = path.with_name(f".{path.name}{by}.partial")
    try:
        with os.fdopen(_made_anew(partial), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str, *, mode: int | None = None, sync: bool = False, by: str = "") -> None:
    """Replace the file by `text` (UTF-8) in one step; see `replaced`."""
    with replaced(path, mode=mode, sync=sync, by=by) as file:
        file.write(text.encode())


def open_lock(path: Path) -> BinaryIO:
    """A file to lock, with what is in it. OSError, and NotOwnFile for a link or what is no file."""
    return os.fdopen(_kept(path, os.O_RDWR), "r+b", buffering=0)


def open_to_append(path: Path) -> int:
    """The descriptor of a file that is made where it is missing, at its end. OSError and NotOwnFile as `open_lock`."""
    return _kept(path, os.O_WRONLY | os.O_APPEND)


def cleared(path: Path) -> Path:
    """The same, where a file or link of that name is gone now: for what other packages write by its name."""
    with suppress(FileNotFoundError):
        _unlink(path)
    return path


def refuse_linked_files(folder: Path) -> None:
    """NotOwnFile for what is neither file nor folder in a folder of logs, links out of it too: processes write them."""
    for inside, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if Path(inside, name).is_symlink())):
            path = Path(inside, name)
            if path.is_symlink() and path.resolve().is_relative_to(folder.resolve()):
                continue  # `latest.log`, say: what it leads to is looked at, too
            with suppress(FileNotFoundError):  # it was a file that somebody has removed since
                if not (path.is_dir() or stat.S_ISREG(path.lstat().st_mode)):
                    raise _refusal(path)


def _made_anew(path: Path) -> int:
    cleared(path)
    return os.open(path, _NEW, 0o666)


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except (IsADirectoryError, PermissionError) as error:
        if path.is_dir() and not path.is_symlink():
            raise _refusal(path) from error
        raise


def _kept(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | _KEPT, 0o666)
    except OSError as error:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _refusal(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refusal(path)
    os.set_blocking(descriptor, True)
    return descriptor


def _refusal(path: Path) -> NotOwnFile:
    if path.is_symlink():
        return NotOwnFile(f"{path} is a link to {os.readlink(path)}, and a run would change what is there; remove it")
    what = "is a folder" if path.is_dir() else "is no regular file"
    return NotOwnFile(f"{path} {what}, where a run writes a file of its own; remove it")

"""Files that a manifest, an index or a list of checksums names, in a folder that may be somebody else's.

Whoever wrote the list could name any file of the machine, or one that never ends: a pipe, a device.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def inner_file(folder: str | Path, name: str) -> Path:
    """The regular file `name` of a folder or of one below it.

    OSError, which says why, for none, for a name that leads out of the folder (also by a link within it), and for a
    pipe, device, socket or folder. The folder itself may be a link, or lie behind one.
    """
    if not is_inner(name):
        raise OSError(errno.EPERM, "not the name of a file inside the folder", name)
    file = Path(folder) / name
    try:
        found = file.resolve(strict=True)
    except RuntimeError as error:  # what links in a circle are to Python before 3.13
        raise OSError(errno.ELOOP, "a link that leads to itself", name) from error
    if not found.is_relative_to(Path(folder).resolve()):
        raise OSError(errno.EPERM, "a link that leads out of the folder", name)
    if not stat.S_ISREG(found.stat().st_mode):
        raise OSError(errno.EPERM, "not a regular file", name)
    return file


def is_inner(name: str) -> bool:
    """Whether that may be the name of a file inside a folder."""
    path = Path(name)
    return "\0" not in name and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def refuse_pipe(file: Path) -> None:
    """OSError for what is there and is neither a file nor a folder: a pipe that nobody writes to is waited for."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise OSError(errno.EPERM, "not a regular file", str(file))

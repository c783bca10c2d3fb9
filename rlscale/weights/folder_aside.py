"""Folders that appear whole or not at all, also after a loss of power."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path


class FolderAside:
    """A new folder that is written under another name beside its own. OSError when the disk refuses."""

    def __init__(self, target: Path) -> None:
        """Makes the folder `path`, and those above it."""
        self.target = target
        self.path = target.with_name(f".{target.name}-{secrets.token_hex(6)}")
        self.path.mkdir(parents=True)  # with the rights that the user's umask leaves, as tempfile's have not

    def publish(self) -> Path:
        """Force everything to disk and give the folder its name, which must be free."""
        for file in (file for file in self.path.rglob("*") if file.is_file()):
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        sync_folder(self.path)
        os.replace(self.path, self.target)
        sync_folder(self.target.parent)
        return self.target

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        shutil.rmtree(self.path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, where its file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)

"""Whether other users of the machine could put files of theirs in the place of a run's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rlscale.config.errors import UserError


def refuse_shared(folder: Path, key: str) -> None:
    """UserError for a folder in which others may write, a sticky one too: they would be there first.

    Also for one of another user, except for root. `key` is what names it.
    """
    found = folder.stat()
    if found.st_mode & stat.S_IWOTH:
        raise UserError(f"{key}={folder}: everybody may write there, also in the place of this run; chmod o-w {folder}")
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        raise UserError(f"{key}={folder} belongs to another user, who could change what this run does; name another")


def refuse_foreign_file(file: Path, key: str) -> None:
    """UserError for a file that another user (but root) has written, or that everybody may write. OSError if none."""
    found = file.stat()
    if found.st_mode & stat.S_IWOTH or found.st_uid not in (os.geteuid(), 0):
        raise UserError(f"{key}={file} belongs to another user, or everybody may write it; name one of your own")

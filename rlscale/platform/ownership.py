"""Whether other users of the machine could put files of theirs in the place of a run's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.shown import say_error

_TOLD: set[str] = set()
"""Notes that this process has made."""


def make_own(folder: Path, key: str) -> Path:
    """The folder, made for this user alone where it is missing. UserError as `refuse_shared`, or where it cannot be."""
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={folder} cannot be made a folder ({error.strerror})") from error
    refuse_shared(folder, key)
    return folder


def refuse_shared(folder: Path, key: str) -> None:
    """UserError for a folder in which others may write, a sticky one too: they would be there first.

    Also for one of another user, except for root. A note where others could put another in its place. `key` is what
    names it.
    """
    found = folder.stat()
    if found.st_mode & stat.S_IWOTH:
        raise UserError(f"{key}={folder}: everybody may write there, also in the place of this run; chmod o-w {folder}")
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        raise UserError(f"{key}={folder} belongs to another user, who could change what this run does; name another")
    _tell_above(folder, key)


def refuse_foreign_file(file: Path, key: str) -> None:
    """UserError for a file that another user (but root) has written, or that everybody may write. OSError if none.

    A note for one that others could put another in the place of.
    """
    found = file.stat()
    if found.st_mode & stat.S_IWOTH or found.st_uid not in (os.geteuid(), 0):
        raise UserError(f"{key}={file} belongs to another user, or everybody may write it; name one of your own")
    _tell_above(file, key)


def _tell_above(path: Path, key: str) -> None:
    """A note where somebody else could rename what is on the way to the path, by the name given or the real one.

    A sticky folder lets nobody rename what belongs to others. It is no refusal: project folders of a group, and those
    of containers, are often so, and whoever may do that there is known.
    """
    for above in dict.fromkeys([*Path(os.path.abspath(path)).parents, *Path(os.path.realpath(path)).parents]):
        found = above.stat()
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            why = f"everybody may write in {above}"
        elif os.geteuid() != 0 and found.st_uid not in (0, os.geteuid(), *_roots_elsewhere()):
            why = f"{above} belongs to another user"
        else:
            continue
        if (note := f"note: {key}={path}: {why}, and could put something else in its place") not in _TOLD:
            _TOLD.add(note)
            say_error(f"{note}; if you do not trust them, name a folder below one of yours")


def _roots_elsewhere() -> tuple[int, ...]:
    """As whom a container that does not know root shows it: files of the machine belong to nobody there."""
    try:
        known = Path("/proc/self/uid_map").read_text().split()
        if known == ["0", "0", "4294967295"]:
            return ()
        return (int(Path("/proc/sys/kernel/overflowuid").read_text()),)
    except (OSError, ValueError):
        return ()

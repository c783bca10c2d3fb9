"""What a case has left behind once its process has ended: processes that go on, and files where none should stay."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

PLACES = {"tmp": "TMPDIR", "home": "HOME"}
"""Folders of a case beside the one that it works in, and the variables that name them."""
_OWN = {"work", "output", *PLACES}
_KEPT = {"cache", "models", "served", "engine", "error.log"}
"""What runs make once in their scratch, where `engines serve` has its logs, and what commands write there of an error
that nobody foresaw."""
_GRACE_S = 3.0
"""Seconds within which what the process has started must have ended, too: guards see that it is gone."""


def left_behind(folder: Path, group: int) -> list[str]:
    """A line for each process of the group, or that works in the case's folder, and for each file beside its own.

    The process of the case has ended.
    """
    deadline = time.monotonic() + _GRACE_S
    while (processes := [*_processes(folder, group)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [*processes, *_files(folder)]


def left_in_scratch(scratch: Path) -> list[str]:
    """What is in the folder `run.scratch` that nobody uses again. Cases share it, so that none can be told of it."""
    return sorted(path.name for path in scratch.glob("*") if path.name not in _KEPT)


def _processes(folder: Path, group: int) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in (group, os.getpid()):
            continue
        with contextlib.suppress(OSError):  # it has ended
            state, _, of, *_ = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            works = Path(os.readlink(entry / "cwd")) if state not in "ZX" else None
            if works is not None and (int(of) == group or works.is_relative_to(folder.resolve())):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield f"process {entry.name}: {' '.join(words)[:200]}"


def _files(folder: Path) -> Iterator[str]:
    yield from (str(path) for path in sorted(folder.iterdir()) if path.name not in _OWN)
    for name in PLACES:
        yield from (str(path) for path in sorted((folder / name).rglob("*")) if not _is_of_wandb(path))


def _is_of_wandb(path: Path) -> bool:
    """Its folders for temporary files, which it removes as Python ends (a case ends without that), and its own log."""
    return "wandb" in str(path) or (path.is_dir() and any(path.iterdir()) and all(map(_is_of_wandb, path.iterdir())))

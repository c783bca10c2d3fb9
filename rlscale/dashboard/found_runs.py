"""Which runs there are below some folders, and what each says of itself."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlscale.observe import metrics, timeline
from rlscale.observe.summary import Summary

_MARK, _LOCK = "run.json", ".lock"
_LOCKS = Path("/proc/locks")
_DEEPEST = 5
_QUIET_S = 90.0
"""A run that has written nothing for so long, and whose folder nobody holds, is not called running."""
_MOST = 2000
"""Runs that are listed, the newest."""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Every folder of a run at or below these, the newest first."""
    found = dict.fromkeys(path.resolve() for folder in folders for path in _below(folder, _DEEPEST))
    return sorted(found, key=_written, reverse=True)[:_MOST]


def run_id(folder: Path) -> str:
    """By what a run is called in the page's requests."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


def describe(folder: Path) -> dict[str, Any]:
    """What a run says of itself: `id`, `name`, `recipe`, `status`, `message`, `written` (seconds since 1970)."""
    summary, mark, written = Summary.read(folder), _read(folder / _MARK), _written(folder)
    finished = summary is not None and summary.status != "running"
    going = mark.get("state") != "finished" and (time.time() - written < _QUIET_S or _is_held(folder))
    status = summary.status if summary is not None and finished else "running" if going else "not finished"
    if finished and going and summary is not None and written > _time(folder / "summary.json") + 1:
        status = "running"  # a run that was stopped is continued
    return {
        "id": run_id(folder),
        "name": folder.name,
        "folder": str(folder),
        "recipe": str(mark.get("recipe") or (summary.recipe if summary is not None else "") or folder.parent.name),
        "status": status,
        "message": summary.message if summary is not None else None,
        "written": written,
    }


def _below(folder: Path, levels: int) -> Iterator[Path]:
    if os.path.isfile(folder / _MARK) or os.path.isfile(folder / metrics.FILE):
        yield folder
        return
    if not levels:
        return
    try:
        inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in inside:
        yield from _below(path, levels - 1)


def _is_held(folder: Path) -> bool:
    """Whether a process of this machine holds the run's folder. Asked of the system: trying would hold it, too."""
    try:
        wanted = f":{(folder / _LOCK).stat().st_ino}"
        locks = _LOCKS.read_text().splitlines()
    except OSError:
        return False
    return any(words[1] == "FLOCK" and words[5].endswith(wanted) for line in locks if len(words := line.split()) > 5)


def _written(folder: Path) -> float:
    return max(_time(folder / name) for name in (metrics.FILE, timeline.FILE, _MARK))


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():  # nor a pipe, which would be waited for
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

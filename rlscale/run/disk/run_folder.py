"""The folder of one run: where everything is, who holds it, and which unfinished run a command continues."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from rlscale.config.composition.written_recipe import differing_keys
from rlscale.config.errors import UserError
from rlscale.config.own_files import open_lock, refuse_linked_files, write_text
from rlscale.config.schema import Config
from rlscale.config.schema.checkpoint_config import Resume

MARK = "run.json"
LOCK = ".lock"
DRY_RUN = "dry_run"
"""Folder for what `--dry-run` writes; a run may come to stand beside it."""
_SHOWN = 5
"""Keys that a message names at most."""


@dataclass
class RunFolder:
    """Paths inside a run's folder. The folder is held by one process at a time (an advisory lock)."""

    path: Path
    resumed: bool = False
    _lock: BinaryIO | None = None

    @property
    def logs(self) -> Path:
        """Logs of engines, router and ranks."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, one folder each."""
        return self.path / "checkpoints"

    @property
    def hf(self) -> Path:
        """The final model in Hugging Face format."""
        return self.path / "hf"

    @property
    def hf_critic(self) -> Path:
        """The final critic in Hugging Face format."""
        return self.path / "hf_critic"

    def mark(self, **facts: Any) -> None:
        """Write the facts by which a later command recognises this run (recipe, config hash, state)."""
        known = read_mark(self.path) or {}
        write_json(self.path / MARK, {**known, **facts})

    def acquire(self) -> None:
        """Hold the folder. UserError when a living process holds it, or there are links where a run writes its logs."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = open_lock(self.path / LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(f"{self.path} belongs to a run that is still running; choose another run.output") from None
        self._lock = lock
        try:
            refuse_linked_files(self.logs)
        except UserError:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one. `mode`: who may read it."""
    write_text(path, f"{json.dumps(value, indent=2)}\n", mode=mode, sync=True, by=f".{os.getpid()}")


def read_mark(folder: Path) -> dict[str, Any] | None:
    """The facts of the run in `folder`, or None when it holds no run. UserError where they are of another shape."""
    if (folder / MARK).exists() and not (folder / MARK).is_file():  # a pipe, which nobody writes to
        raise UserError(f"{folder / MARK} is not one that rlscale writes; choose another folder")
    try:
        facts = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise UserError(f"{folder / MARK} cannot be read ({error}); choose another folder") from error
    if not isinstance(facts, dict):
        raise UserError(f"{folder / MARK} is not one that rlscale writes; choose another folder")
    return facts


def open_folder(config: Config, config_hash: str) -> RunFolder:
    """Choose, create and hold the folder of a run; `checkpoint.resume=auto` continues an unfinished one.

    Raises UserError when `run.output` contains a run that is finished, still running or of another configuration.
    """
    auto = config.checkpoint.resume is Resume.auto
    if config.run.output is not None:
        return _given_folder(Path(config.run.output), config, config_hash)
    if auto:
        for path in _unfinished(Path(config.run.root) / config.run.recipe, config_hash):
            folder = RunFolder(path.resolve(), resumed=True)
            try:
                folder.acquire()
            except UserError:  # it is still going: not ours to continue
                continue
            return folder
    return _fresh_folder(Path(config.run.root) / config.run.recipe)


def refuse_folder(config: Config, config_hash: str) -> None:
    """UserError where `open_folder` would refuse `run.output` for what it holds; nothing is made or held."""
    if config.run.output is not None:
        _held_before(Path(config.run.output), config, config_hash)


def _held_before(path: Path, config: Config, config_hash: str) -> bool:
    """Whether the folder holds a run: one to continue, or with `checkpoint.resume=never` to set aside.

    UserError for one that is neither.
    """
    auto = config.checkpoint.resume is Resume.auto
    try:
        facts = read_mark(path)
    except UserError:
        if auto:
            raise
        return True
    if facts is None:
        if path.is_dir() and any(entry.name not in (LOCK, DRY_RUN) for entry in path.iterdir()):
            raise UserError(f"run.output={path} is a folder without a run in it; choose an empty or a new folder")
        return False
    instead = "choose another folder, or checkpoint.resume=never"
    if auto and facts.get("state", "unfinished") not in ("unfinished", "finished"):
        raise UserError(f"{path / MARK} has a state that rlscale does not write ({facts['state']!r}); {instead}")
    if auto and facts.get("state") == "finished":
        raise UserError(f"run.output={path} contains a finished run; {instead}")
    if auto and facts.get("config_hash") != config_hash:
        keys = differing_keys(config, path)
        which = f" ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})" if keys else ""
        raise UserError(f"run.output={path} contains a run with a different configuration{which}; {instead}")
    return True


def _given_folder(path: Path, config: Config, config_hash: str) -> RunFolder:
    held = _held_before(path, config, config_hash)
    folder = RunFolder(path.resolve())
    folder.acquire()
    if held and config.checkpoint.resume is Resume.never:
        return _set_aside(folder)
    folder.resumed = held
    return folder


def _set_aside(folder: RunFolder) -> RunFolder:
    """Keep the old run under another name, so that starting afresh loses nothing."""
    folder.release()
    old = folder.path.with_name(f"{folder.path.name}.old-{new_folder_name()}")
    folder.path.rename(old)
    fresh = RunFolder(folder.path)
    fresh.acquire()
    return fresh


def _unfinished(root: Path, config_hash: str) -> list[Path]:
    """Folders of unfinished runs with this configuration, newest first."""
    found = []
    for mark in root.glob(f"*/{MARK}"):
        try:
            facts = read_mark(mark.parent) or {}
        except UserError:  # whatever it is, no run that could be continued
            continue
        if facts.get("state") != "finished" and facts.get("config_hash") == config_hash:
            found.append(mark.parent)
    return sorted(found, key=lambda path: path.name, reverse=True)


def _fresh_folder(root: Path) -> RunFolder:
    root.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):
        path = root / (new_folder_name() + (f"-{attempt}" if attempt else ""))
        try:
            path.mkdir()
        except FileExistsError:
            continue
        folder = RunFolder(path.resolve())
        folder.acquire()
        return folder
    raise UserError(f"no free folder name under {root}")


def new_folder_name() -> str:
    """The date and time."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")

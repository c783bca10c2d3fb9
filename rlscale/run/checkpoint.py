"""Whole checkpoints only: each is written under a partial name, closed by a manifest, and renamed when complete."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.run.folder import write_json

MANIFEST = "manifest.json"
_PREFIX = "iteration_"
_PARTIAL = "partial-"


@dataclass
class Progress:
    """Where a run stands: everything the driver itself must remember."""

    iteration: int = 0
    """Iterations that are finished."""
    version: int = 0
    """Weight version of the trainer."""
    steps: int = 0
    """Optimizer steps taken."""
    counters: dict[str, float] = field(default_factory=dict)
    """Totals over the run for its summary (seconds, tokens)."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last iterations, for `run.stop_loss`."""
    eval_before: dict[str, Any] | None = None
    """Result of the evaluation before training."""


class CheckpointFailed(UserError):
    """A checkpoint could not be written. Nothing is lost but the checkpoint: older ones stay."""


@dataclass(frozen=True)
class Begun:
    """A checkpoint that is being written: it is none before `CheckpointStore.complete`."""

    final: Path
    partial: Path
    facts: dict[str, Any]
    """What its manifest will say, besides the files."""

    @property
    def trainer(self) -> Path:
        """The folder that the trainer's ranks write."""
        return self.partial / "trainer"


@dataclass
class CheckpointStore:
    """The checkpoints of one run: newest whole one, writing, and forgetting the oldest."""

    folder: Path
    keep: int

    def whole(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = [path for path in self.folder.glob(f"{_PREFIX}*") if _is_whole(path)]
        return sorted(found)

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        whole = self.whole()
        return whole[-1] if whole else None

    def begin(self, progress: Progress, config_hash: str, rollout: Any) -> Begun:
        """Begin a checkpoint of this moment: the driver's and the rollout's part. CheckpointFailed if the disk refuses.

        What an earlier attempt left half-written is removed.
        """
        final = self.folder / f"{_PREFIX}{progress.iteration:06d}"
        begun = Begun(
            final,
            self.folder / f"{_PARTIAL}{final.name}",
            {"config_hash": config_hash, "progress": copy.deepcopy(asdict(progress))},
        )
        try:
            for left in self.folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(left, ignore_errors=True)
            begun.partial.mkdir(parents=True)
            with open(begun.partial / "rollout.pkl", "wb") as file:
                pickle.dump(rollout, file)
        except OSError as error:
            raise self.failed(begun, error) from error
        return begun

    def complete(self, begun: Begun) -> Path:
        """Make a checkpoint whole, once every rank has written its part. CheckpointFailed if the disk refuses."""
        partial, final = begun.partial, begun.final
        try:
            files = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
            _sync_files(partial, files)
            write_json(partial / MANIFEST, {**begun.facts, "files": files})
            older = self.folder / f"{_PARTIAL}replaced-{final.name}"
            if final.exists():
                final.rename(older)
            try:
                partial.rename(final)
            except OSError:
                if older.exists():
                    older.rename(final)
                raise
        except OSError as error:
            raise self.failed(begun, error) from error
        shutil.rmtree(older, ignore_errors=True)
        for old in self.whole()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def failed(self, begun: Begun, reason: object) -> CheckpointFailed:
        """Remove what was written; the error that says so."""
        shutil.rmtree(begun.partial, ignore_errors=True)
        return CheckpointFailed(f"checkpoint {begun.final} could not be written ({reason}); older ones are untouched")


def load_progress(checkpoint: Path) -> Progress:
    """The driver's part of a checkpoint."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    try:
        return Progress(**manifest["progress"])
    except (KeyError, TypeError) as error:
        raise _other_version(checkpoint) from error


def load_rollout(checkpoint: Path) -> Any:
    """The rollout service's part of a checkpoint: data position, buffer, counters."""
    with open(checkpoint / "rollout.pkl", "rb") as file:
        try:
            return pickle.load(file)
        except (pickle.UnpicklingError, AttributeError, ImportError, EOFError) as error:
            raise _other_version(checkpoint) from error


def _other_version(checkpoint: Path) -> UserError:
    return UserError(f"{checkpoint} was written by another version of rlscale; checkpoint.resume=never starts afresh")


def _is_whole(path: Path) -> bool:
    """A checkpoint is whole when its manifest is there and every file it names has the size it names."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        return all((path / name).stat().st_size == size for name, size in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sync_files(folder: Path, names: dict[str, int]) -> None:
    """Force the files to disk, so that a manifest is never newer than what it names."""
    for name in names:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())

"""Whole checkpoints only: each is written under a partial name, closed by a manifest, and renamed when complete."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.families.inner_file import inner_file
from rlscale.rollout.group_journal import forget_groups
from rlscale.run.disk.best_checkpoints import BestCheckpoints
from rlscale.run.disk.rollout_state import NAME as ROLLOUT_STATE
from rlscale.run.disk.rollout_state import read_rollout_state, write_rollout_state
from rlscale.run.disk.run_folder import write_json
from rlscale.trainer.checksums import SUMS, checksum, read_sums, running_checksum

MANIFEST = "manifest.json"
_PREFIX = "iteration_"
_PARTIAL = "partial-"
_REPLACED = f"{_PARTIAL}replaced-"
_SKIPPED = "skipped-"
_SEAL = "checksum"
"""Where a manifest has the checksum of all else that it says."""
_FACTS = {"config_hash", "progress", "files"}


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
    eval_owed: dict[str, int] = field(default_factory=dict)
    """The evaluation sets that are due and not measured yet, each with the iteration after which it is."""


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
    """The checkpoints of one run: newest whole one, writing, and forgetting those that are not to stay."""

    folder: Path
    keep: int
    best: BestCheckpoints | None = None
    """What picks those that stay besides the newest."""

    note: Callable[[str], None] = logging.getLogger(__name__).warning
    """Is told what could not be tidied up."""

    bad: set[Path] = field(default_factory=set)
    """Checkpoints that are known to be damaged, although every file has its size."""

    def all(self) -> list[Path]:
        """Every checkpoint that a run has written there, whole or not, oldest first. Copies by other names are none."""
        named = [path for path in self.folder.glob(f"{_PREFIX}*") if path.name == _name_of(iteration_of(path))]
        return sorted((path for path in named if path.is_dir()), key=iteration_of)

    def put_back(self) -> None:
        """A checkpoint that was moved to make way for one that then never came takes its place again."""
        for older in self.folder.glob(f"{_REPLACED}*"):
            if not (final := self.folder / older.name.removeprefix(_REPLACED)).exists():
                older.rename(final)

    def set_aside(self, checkpoint: Path) -> Path:
        """Move one that the run does not go on from out of its way; where it is now. OSError where that cannot be.

        Else it would be taken for the run's newest, if it can be read another time, although the run has gone another
        way meanwhile.
        """
        aside, number = self.folder / f"{_SKIPPED}{checkpoint.name}", 1
        while aside.exists():
            number += 1
            aside = self.folder / f"{_SKIPPED}{checkpoint.name}-{number}"
        return checkpoint.rename(aside)

    def whole(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return [path for path in self.all() if path not in self.bad and fault_of(path) is None]

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        whole = self.whole()
        return whole[-1] if whole else None

    def begin(self, progress: Progress, config_hash: str, rollout: Any) -> Begun:
        """Begin a checkpoint of this moment: the driver's and the rollout's part. CheckpointFailed if the disk refuses.

        UserError for a state that cannot be written. What an earlier attempt left half-written is removed.
        """
        final = self.folder / _name_of(progress.iteration)
        begun = Begun(
            final,
            self.folder / f"{_PARTIAL}{final.name}",
            {"config_hash": config_hash, "progress": copy.deepcopy(asdict(progress))},
        )
        try:
            self.put_back()
            for left in self.folder.glob(f"{_PARTIAL}*"):
                if left.is_symlink():  # somebody else's, as no run makes one; what it leads to stays
                    left.unlink()
                shutil.rmtree(left, ignore_errors=True)
            begun.partial.mkdir(parents=True)
            write_rollout_state(begun.partial / ROLLOUT_STATE, rollout)
        except OSError as error:
            raise self.failed(begun, error) from error
        except UserError:
            shutil.rmtree(begun.partial, ignore_errors=True)
            raise
        return begun

    def complete(self, begun: Begun) -> Path:
        """Make a checkpoint whole, once every rank has written its part. CheckpointFailed if the disk refuses."""
        partial, final = begun.partial, begun.final
        try:
            files = _files_in(partial)
            _sync_files(partial, files)
            write_json(partial / MANIFEST, sealed({**begun.facts, "files": files}))
            older = self.folder / f"{_REPLACED}{final.name}"
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
        self.bad.discard(final)
        self._forget()
        return final

    def _forget(self) -> None:
        """Remove the whole checkpoints that are neither among the newest nor among the best. What stays is noted."""
        whole = {iteration_of(path): path for path in self.whole()}
        newest = list(whole)[-self.keep :]
        try:
            kept = {*newest, *(self.best.among(whole) if self.best is not None else ())}
            for iteration, path in whole.items():
                if iteration not in kept:
                    shutil.rmtree(path)
            # A run goes on from one of the newest: no groups are kept for those that are here for being the best.
            forget_groups(groups_of(self.folder), before=min(newest))
        except OSError as error:
            self.note(f"old checkpoints in {self.folder} could not be removed ({error}); the new one is whole")

    def failed(self, begun: Begun, reason: object) -> CheckpointFailed:
        """Remove what was written; the error that says so."""
        shutil.rmtree(begun.partial, ignore_errors=True)
        return CheckpointFailed(f"checkpoint {begun.final} could not be written ({reason}); older ones are untouched")


def groups_of(checkpoints: Path) -> Path:
    """The folder, among a run's checkpoints, of the groups that were finished after them."""
    return checkpoints / "groups"


def _name_of(iteration: int) -> str:
    return f"{_PREFIX}{iteration:06d}"


def iteration_of(checkpoint: Path) -> int:
    """The iteration that a checkpoint is of, by its name; -1 for a folder that no run has written."""
    number = checkpoint.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


def load_progress(checkpoint: Path) -> Progress:
    """The driver's part of a checkpoint. UserError for one that this version does not understand."""
    known = read_manifest(checkpoint).get("progress")
    shape = {item.name: item.type for item in fields(Progress)}
    if not isinstance(known, dict) or known.keys() - shape.keys():
        raise _other_version(checkpoint)
    owed = known.get("eval_owed")
    if isinstance(owed, list) and all(isinstance(name, str) for name in owed):  # without the iterations, as it once was
        known = {**known, "eval_owed": dict.fromkeys(owed, known.get("iteration", 0))}
    progress = Progress(**known)
    numbers = (*progress.counters.values(), *progress.recent_losses) if _is_shaped(progress) else (None,)
    if not all(isinstance(number, int | float) for number in numbers):
        raise _other_version(checkpoint)
    return progress


def _is_shaped(progress: Progress) -> bool:
    counts = (progress.iteration, progress.version, progress.steps)
    before, owed = progress.eval_before, progress.eval_owed
    return (
        all(isinstance(count, int) for count in counts)
        and isinstance(progress.counters, dict)
        and isinstance(progress.recent_losses, list)
        and (before is None or isinstance(before, dict))
        and isinstance(owed, dict)
        and all(isinstance(iteration, int) for iteration in owed.values())
    )


def load_rollout(checkpoint: Path) -> Any:
    """The rollout service's part of a checkpoint: data position, buffer, counters. UserError if it is damaged."""
    return read_rollout_state(checkpoint / ROLLOUT_STATE)


def _other_version(checkpoint: Path) -> UserError:
    return UserError(f"{checkpoint} was written by another version of rlscale; checkpoint.resume=never starts afresh")


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says; `files` is a mapping. UserError if there is none, or one of another shape."""
    try:
        manifest = json.loads(inner_file(checkpoint, MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{MANIFEST} cannot be read ({error})") from error
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(_size_and_sum(entry) for entry in files.values()):
        raise UserError(f"{MANIFEST} is not one that rlscale writes")
    seal = manifest.pop(_SEAL, None)
    # Without a seal only what older versions wrote: else one with its name changed would count as none.
    if (seal is None and manifest.keys() - _FACTS) or (seal is not None and seal != _seal_of(manifest)):
        raise UserError(f"{MANIFEST} is not what was written (the checksum differs)")
    return {**manifest, _SEAL: seal}


def sealed(facts: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says, with the checksum of it."""
    return {**facts, _SEAL: _seal_of(facts)}


def is_sealed(checkpoint: Path) -> bool:
    """Whether the manifest of a whole checkpoint has a checksum of its own; an older version wrote it without."""
    return read_manifest(checkpoint)[_SEAL] is not None


def _seal_of(facts: dict[str, Any]) -> str:
    # As JSON has it, which is what is read: keys are text there.
    said = json.dumps(json.loads(json.dumps(facts)), sort_keys=True)
    return running_checksum(said.encode()).hexdigest()


def _size_and_sum(entry: Any) -> tuple[int, str | None] | None:
    """Size and checksum of a file by its entry in a manifest (an older one has the size alone); None for neither."""
    if isinstance(entry, int):
        return entry, None
    if isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("xxh3_128"), str):
        return entry["size"], entry["xxh3_128"]
    return None


def fault_of(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole, as far as its manifest and the sizes of its files tell; None if it is."""
    try:
        manifest = read_manifest(checkpoint)
    except UserError as error:
        return str(error)
    progress = manifest.get("progress")
    says, is_of = progress.get("iteration") if isinstance(progress, dict) else None, iteration_of(checkpoint)
    if isinstance(says, int) and is_of not in (-1, says):
        return f"{MANIFEST} is of iteration {says}, and the folder's name of {is_of}"
    for name, entry in manifest["files"].items():
        wanted, _ = _size_and_sum(entry) or (0, None)
        try:
            size = inner_file(checkpoint, name).stat().st_size
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if size != wanted:
            return f"{name} has {size:,} bytes instead of {wanted:,}"
    return None


def sums_of(checkpoint: Path) -> dict[str, str]:
    """The checksum of every file of a whole checkpoint; {} for one that an older version wrote without."""
    read = {name: _size_and_sum(entry) for name, entry in read_manifest(checkpoint)["files"].items()}
    return {name: entry[1] for name, entry in read.items() if entry is not None and entry[1] is not None}


def _files_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file. Those that the ranks wrote they have summed already, each its own."""
    known: dict[Path, str] = {}
    for sums in folder.rglob(SUMS):
        known |= {sums.parent / name: value for name, value in read_sums(sums.parent).items()}
    return {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "xxh3_128": known.get(file) or checksum(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _sync_files(folder: Path, names: Iterable[str]) -> None:
    """Force the files to disk, so that a manifest is never newer than what it names."""
    for name in names:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())

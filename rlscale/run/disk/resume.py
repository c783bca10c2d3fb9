"""Which checkpoint a run continues from: the newest that is what was written, with a word on each that is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.families.inner_file import is_inner
from rlscale.run.disk.checkpoint import (
    MANIFEST,
    CheckpointStore,
    fault_of,
    is_sealed,
    load_progress,
    read_manifest,
    sums_of,
)
from rlscale.run.disk.run_folder import read_mark


def usable_checkpoint(
    store: CheckpointStore, damaged: Callable[[Path, dict[str, str]], Sequence[str]], note: Callable[[str], None]
) -> Path | None:
    """The newest checkpoint that can be used; None if the run has none yet. A note for every one that is skipped.

    Those are moved out of the way. `damaged` names the files of a checkpoint whose content has another checksum.
    UserError if there are checkpoints and none can be used: to begin again is for the user to decide. So for one with a
    link that leads out of it, which is no damage.
    """
    try:
        store.put_back()
    except OSError as error:
        raise UserError(f"{store.folder}: a checkpoint there cannot be moved to its place ({error})") from error
    skipped: dict[Path, str] = {}
    for checkpoint in reversed(store.all()):
        _refuse_links(checkpoint)
        fault = fault_of(checkpoint)
        if fault is None and not (sums := sums_of(checkpoint)):
            note(f"{checkpoint} has no checksums (an older version wrote it), so only its sizes were checked")
        elif fault is None and (names := sorted(damaged(checkpoint, sums))):
            fault = f"{', '.join(names)} is not what was written (its checksum differs, or it cannot be read)"
        elif fault is None and not is_sealed(checkpoint):
            note(f"the manifest of {checkpoint} has no checksum (an older version wrote it): its numbers are believed")
        if fault is None:
            _set_aside(store, skipped, note)
            return checkpoint
        store.bad.add(checkpoint)
        skipped[checkpoint] = fault
        note(f"{checkpoint} is skipped: {fault}")
    if skipped:
        raise UserError(
            f"none of the {len(skipped)} checkpoints in {store.folder} can be used (a line above for each); "
            "checkpoint.resume=never starts afresh"
        )
    return None


def _refuse_links(checkpoint: Path) -> None:
    """UserError for a part of a checkpoint that was moved elsewhere and linked. Of what is no part nothing is read."""
    inside = os.path.realpath(checkpoint)
    for path in _parts(checkpoint):
        if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(inside):
            raise UserError(
                f"{path} is a link out of the checkpoint, and none is followed, as those of a stranger could lead to "
                "any file; put what it leads to in its place"
            )


def _parts(checkpoint: Path) -> Iterator[Path]:
    """The manifest, and the folders and files that it names; nothing more where it cannot be read, which is a fault."""
    yield checkpoint / MANIFEST
    try:
        names = read_manifest(checkpoint)["files"]
    except UserError:
        return
    for name in names:
        if not is_inner(name):
            continue  # a fault
        path = checkpoint
        for part in Path(name).parts:
            path /= part
            yield path


def _set_aside(store: CheckpointStore, skipped: Iterable[Path], note: Callable[[str], None]) -> None:
    for checkpoint in skipped:
        try:
            note(f"{checkpoint} is called {store.set_aside(checkpoint).name} from now on: nothing goes on from it")
        except OSError as error:
            raise UserError(
                f"{checkpoint} cannot be used, and not be moved either ({error}): move it, else a later run may go on "
                "from it"
            ) from error


def checkpoint_of(run: Path, iteration: str | None) -> Path:
    """A whole checkpoint of a run, of that iteration or else the newest, absolute. UserError if there is none."""
    if read_mark(run) is None:
        raise UserError(f"run.output={run} does not contain a run")
    store = CheckpointStore(run / "checkpoints", keep=1)
    whole = store.whole()
    if not whole:
        reasons = "".join(f"; {path.name}: {fault_of(path)}" for path in store.all())
        raise UserError(f"run.output={run} does not contain a whole checkpoint{reasons}")
    if iteration is None:
        return whole[-1].resolve()
    for path in whole:
        if path.name.removeprefix("iteration_").lstrip("0") == iteration.lstrip("0"):
            return path.resolve()
    numbers = ", ".join(path.name.removeprefix("iteration_").lstrip("0") or "0" for path in whole)
    raise UserError(f"iteration={iteration}: {run} has checkpoints of the iterations {numbers}")


def check_resumable(run: Path, config_hash: str) -> None:
    """Whether a run can go on from its checkpoints, as far as manifests and sizes tell; fine if it has none yet.

    Needs no process of the run. UserError if there are checkpoints and none is whole, or the newest whole one is not of
    this run. The content of the files is compared later, by the ranks that read them.
    """
    store = CheckpointStore(run / "checkpoints", keep=1)
    newest = store.newest()
    if newest is not None:
        load_progress(newest)
        if read_manifest(newest).get("config_hash") != config_hash:
            raise UserError(
                f"{newest} belongs to a run with a different configuration; checkpoint.resume=never starts afresh"
            )
    elif faults := [f"{path.name}: {fault_of(path)}" for path in store.all()]:
        raise UserError(
            f"none of the checkpoints in {store.folder} can be used ({'; '.join(faults)}); "
            "checkpoint.resume=never starts afresh"
        )

"""A copy of the folder that an engine started from, brought from version to version by deltas.

Nothing is written before every checksum of the new version is right. A copy whose writing was cut off is made anew, and
so is one of another folder of deltas: an engine that outlives a run is given the same numbers for other weights.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from rlscale.families.weight_files import SUMS, tensors_of
from rlscale.weights.delta.delta_encoding import Bytes
from rlscale.weights.delta.delta_error import DeltaError
from rlscale.weights.delta.patching import Patch
from rlscale.weights.delta.published import START, folder_of, read_index

_STATE = "held.json"


class LocalCopy:
    """The copy at `folder`, of the folder `model`. Whoever patches it sees to it that no engine reads it meanwhile."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self._model = folder, model

    def held(self) -> int | None:
        """The version that the copy has; None where there is none, or one that was cut off while it was written."""
        try:
            return int(json.loads((self.folder / _STATE).read_text())["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def catch_up(self, deltas: Path, version: int) -> None:
        """Bring the copy to a version, by the deltas that lead there.

        A copy that is missing, newer, made of another folder's deltas, or so far behind that its deltas are gone, is
        made anew before. DeltaError where a delta is missing or wrong; the copy then has the last version that was
        right.
        """
        held = self.held()
        if held is not None and self._patched_from() not in (None, str(deltas.absolute())):
            held = None
        if held is None or (not _leads(deltas, held, version) and _leads(deltas, START, version)):
            self._seed()
            held = START
        for delta in chain(deltas, held, version):
            self.apply(delta)

    def apply(self, delta: Path) -> None:
        """Patch one delta in. DeltaError for one that does not fit; the copy is then as it was."""
        held = self.held()
        if held is None:
            raise DeltaError(f"{self.folder} holds no version")
        patch = Patch(delta, held)
        with self._tensors() as tensors:
            for _ in patch.changed(tensors):
                pass  # verified, and forgotten: a large model has no room for a second one
            self._note(None)
            for name, new in patch.changed(tensors):
                tensors[name][:] = new
        self._note(patch.index.version, delta.parent)

    def _seed(self) -> None:
        """The copy as engines start."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for file in self._model.iterdir():
            if file.is_file() and file.name != SUMS:
                shutil.copyfile(file, self.folder / file.name)
                os.chmod(self.folder / file.name, 0o644)
        self._note(START)

    def _patched_from(self) -> str | None:
        """The folder of the deltas in the copy; None where there are none, or nobody knows."""
        try:
            return str(json.loads((self.folder / _STATE).read_text())["deltas"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note(self, version: int | None, deltas: Path | None = None) -> None:
        state = self.folder / _STATE
        if version is None:
            state.unlink(missing_ok=True)
        else:
            of = {} if deltas is None else {"deltas": str(deltas.absolute())}
            partial = state.with_name(f".{_STATE}")
            partial.write_text(json.dumps({"version": version, **of}))
            partial.replace(state)

    @contextmanager
    def _tensors(self) -> Iterator[dict[str, Bytes]]:
        """The bytes of every tensor, mapped: what is written to them is in the files."""
        entries = tensors_of(self.folder)
        with ExitStack() as opened:
            mapped, maps = [], {}
            for file in {entry.file for entry in entries.values()}:
                handle = opened.enter_context(open(file, "r+b"))
                mapped.append(mmap.mmap(handle.fileno(), 0))
                maps[file] = np.frombuffer(mapped[-1], np.uint8)
            yield {name: maps[entry.file][entry.start : entry.end] for name, entry in entries.items()}
            for each in mapped:
                each.flush()  # before it is noted which version this is


def _leads(deltas: Path, held: int, version: int) -> bool:
    """Whether deltas lead from one version to another."""
    try:
        chain(deltas, held, version)
    except DeltaError:
        return False
    return True


def chain(deltas: Path, held: int, version: int) -> list[Path]:
    """The deltas that lead from one version to another, in their order. DeltaError where one is missing.

    From the start there are short cuts: a delta from there to a later version.
    """
    found: list[Path] = []
    while version != held:
        if held == START and (whole := folder_of(deltas, version, from_start=True)).is_dir():
            return [whole, *found[::-1]]
        delta = folder_of(deltas, version)
        base = read_index(delta).base_version
        if not held <= base < version:
            raise DeltaError(f"{delta} is made on version {base}, which version {held} does not lead to")
        found.append(delta)
        version = base
    return found[::-1]

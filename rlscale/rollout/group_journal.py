"""Finished groups on disk as they finish, so that a kill of everything loses little more than what was under way.

A journal is a folder of files `NUMBER-PART.groups` (`group_records`). NUMBER is that of the batches handed out when the
rollout's state was last saved, so what finished after that state is in the files of its number and of later ones.

A run that continues has the weights of its checkpoint again, of version v. What was sampled by them, or by older ones,
is as good as ever. What was sampled by a later version u is by weights that are lost: they lay u - v updates after
those of v, which now take another course. So they count as u - v versions older than v instead: however that goes, no
more updates than these, and those since v, lie between them and the trainer's. Such a group is used like any other
that is as old, where it is not too old, and else generated again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlscale.data.sample import NOT_GENERATED, Group
from rlscale.rollout.group_records import UNKNOWN, GroupWriter, Origin, read_groups
from rlscale.rollout.state_encoding import NotPlain

_SUFFIX = ".groups"


class GroupJournal:
    """The journal of one service. Between its calls nothing is held back: what was added is with the kernel."""

    def __init__(self, folder: Path, bound: int, ahead: int, origin: Origin = UNKNOWN) -> None:
        """`bound`: how many versions old a group may be; `ahead`: how many later than a checkpoint's, to be used by a
        run that continues from it; `origin`: what groups are made of, those of another one are not used."""
        self._folder, self._bound, self._ahead, self._origin = folder, bound, ahead, origin
        self._number = 0
        self._newest_useful: int | None = None  # None until the version is known that a saved state goes on with
        self._writer: GroupWriter | None = None
        self._broken = False
        self._notes: list[str] = []

    def saved(self, batches: int) -> None:
        """The state was saved when so many batches had been handed out: what is added from now on is not part of it."""
        self._leave()
        self._number, self._newest_useful, self._broken = batches, None, False

    def resumed(self, version: int) -> None:
        """Engines hold the weights of `version`: a run that goes on from the state saved last begins with them."""
        if self._newest_useful is None:
            self._newest_useful = version + self._ahead

    def add(self, group: Group) -> None:
        """Write a finished group, if a run that continues could use it. A disk that refuses is said."""
        if self._broken or (self._newest_useful is not None and _newest(group) > self._newest_useful):
            return
        try:
            if self._writer is None:
                self._writer = GroupWriter(self._free_path(), self._origin)
            self._writer.write(group)
        except (OSError, NotPlain) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._broken = True
            self._notes.append(
                f"finished groups cannot be written to {self._folder} ({reason}): until the next checkpoint a kill "
                "would lose them"
            )

    def recover(self, batches: int) -> list[Group]:
        """What was finished after the state that was saved when so many batches had been handed out."""
        self.saved(batches)
        found: list[Group] = []
        for path in self._files():
            if _number(path) < batches:
                continue
            groups, fault = read_groups(path, self._origin)
            found += groups
            if fault is not None:
                self._notes.append(f"{fault}; what is missing is generated again")
        return found

    def begin_anew(self, recovered: Iterable[Group], version: int) -> dict[int, Group]:
        """Those of the recovered groups that a run with weights of `version` can use, by prompt.

        They stay written down, by the versions that they count as; the files that they come from go.
        """
        chosen = self._usable(recovered, version)
        old = [path for path in self._files() if _number(path) >= self._number]
        self._leave()
        self._newest_useful = None
        for group in chosen.values():
            self.add(group)
        self._leave()
        if not self._broken:
            for path in old:
                path.unlink(missing_ok=True)
        return chosen

    def _usable(self, groups: Iterable[Group], version: int) -> dict[int, Group]:
        """Of several of a prompt the youngest."""
        found: dict[int, Group] = {}
        for group in groups:
            if _newest(group) > version + self._ahead:
                continue
            seen, index = _seen_from(group, version), group.prompt.index
            if seen is not None and seen.min_version >= version - self._bound:
                known = found.get(index)
                if known is None or known.min_version < seen.min_version:
                    found[index] = seen
        return found

    def note(self, text: str) -> None:
        """Something else that the user should know."""
        self._notes.append(text)

    def take_notes(self) -> list[str]:
        """What the user should know, each line once."""
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        """Nothing follows."""
        self._leave()

    def _leave(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    def _free_path(self) -> Path:
        parts = [int(part) for path in self._files() if (part := path.stem.rpartition("-")[2]).isdecimal()]
        return self._folder / f"{self._number:06d}-{max(parts, default=0) + 1:06d}{_SUFFIX}"


def forget_groups(folder: Path, before: int) -> None:
    """Remove the files whose number is lower: the states that they go on from are gone."""
    for path in folder.glob(f"*{_SUFFIX}"):
        if _number(path) < before:
            path.unlink(missing_ok=True)


def _seen_from(group: Group, version: int) -> Group | None:
    """The group with later versions mirrored at `version`; None where one would lie before the first of all."""
    if _newest(group) <= version:
        return group
    samples = []
    for sample in group.samples:
        mirrored = np.where(sample.versions > version, 2 * version - sample.versions, sample.versions)
        if (mirrored < np.where(sample.versions == NOT_GENERATED, NOT_GENERATED, 0)).any():
            return None
        samples.append(replace(sample, versions=mirrored.astype(sample.versions.dtype)))
    return Group(group.prompt, samples)


def _newest(group: Group) -> int:
    return max((int(sample.versions.max(initial=NOT_GENERATED)) for sample in group.samples), default=NOT_GENERATED)


def _number(path: Path) -> int:
    """The batches that had been handed out; -1 for a file that no journal has written."""
    number = path.stem.partition("-")[0]
    return int(number) if number.isdecimal() else -1

"""Groups that were finished before everything was killed, until their prompts are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.data.sample import Group, Prompt
from rlscale.rollout.group_journal import GroupJournal
from rlscale.rollout.state_encoding import Encoder


class RecoveredGroups:
    """Holds them by prompt. A resumed run draws its prompts from where its state was saved, and finds them here."""

    def __init__(self, journal: GroupJournal | None, bound: int) -> None:
        """`bound`: how many versions old a group may be."""
        self._journal, self._bound = journal, bound
        self._found: list[Group] = []
        self._read = False
        self._groups: dict[int, Group] = {}
        self.used = 0
        """Groups that were not generated again, by this process."""
        self.tokens = 0
        """Tokens that came with them."""

    def load(self, batches: int, saved: Sequence[Group]) -> None:
        """What there is after a state in which so many batches had been handed out, and what that state had itself."""
        self._read = True
        self._found = [*saved, *(self._journal.recover(batches) if self._journal is not None else ())]

    def resumed(self, version: int, *, first: bool) -> None:
        """Engines hold the weights of `version`; `first`: those that the process begins with."""
        if first and not self._read:
            self.load(0, ())  # killed before a state was saved
        if first and self._journal is not None:
            self._groups = self._journal.begin_anew(self._found, version)
        self._found = []
        self._groups = {
            index: group for index, group in self._groups.items() if group.min_version >= version - self._bound
        }
        if self._journal is not None:
            if first and self._groups:
                self._journal.note(
                    f"{len(self._groups)} groups finished before the stop are used, with the rewards they got then; "
                    "checkpoint.resume=never starts afresh"
                )
            self._journal.resumed(version)

    def take(self, prompt: Prompt) -> Group | None:
        """The group of a prompt that is to be generated, if it is here.

        One of another prompt of that index goes, and one of the same prompt whose label or info, which its rewards are
        by, was another.
        """
        group = self._groups.pop(prompt.index, None)
        if group is None or _asked(group.prompt) != _asked(prompt):
            return None
        self.used += 1
        return group

    def state_dict(self) -> list[Group]:
        """Those whose prompts are not drawn yet."""
        return [self._groups[index] for index in sorted(self._groups)]


def _asked(prompt: Prompt) -> bytes:
    """What was asked and what is judged by, so that alike are the same bytes."""
    arrays: list[bytes] = []
    said = (prompt.id, prompt.tokens, prompt.label, prompt.info)
    tree = Encoder(lambda array: arrays.append(bytes(array))).encode(said)
    return b"".join([*arrays, tree])

"""One try at a sample: what engines have generated for it so far, and where its tokens are written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from uuid import uuid4

from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.ledger import Ledger


class Demand:
    """How many samples want an engine: a request of theirs is with one, or waits for its turn.

    The others wait for their environment or are finished, and leave their slots to others.
    """

    def __init__(self, less: Callable[[], None] = lambda: None) -> None:
        """`less` is called whenever there is one fewer."""
        self.samples = 0
        self._less = less

    def change(self, wants: bool) -> None:
        """One more, or one fewer."""
        self.samples += 1 if wants else -1
        if not wants:
            self._less()


class Attempt:
    """A sample from its first request until it is finished or lost.

    `number` counts the tries at the sample's place in its group, from 0. `tokens` were generated so far and are kept;
    `parts` are those of the present turn that a weight sync cut off. They are saved with the group while the sample is
    in its first turn: environments of several turns begin again after a restart.
    """

    def __init__(
        self,
        version: Callable[[], int],
        ledger: Ledger | None = None,
        number: int = 0,
        parts: Sequence[Generation] = (),
        demand: Demand | None = None,
        exactly: bool = False,
    ) -> None:
        """`version`: the one whose weights engines hold. `exactly`: no token may be of a newer one either."""
        self.exactly = exactly
        self._demand = demand or Demand()
        self._wants = False
        self._want(True)
        self._version = version
        self._ledger = ledger or Ledger()
        self.number = number
        self.parts = list(parts)
        self.tokens = sum(len(part.tokens) for part in parts)
        self.finished = False
        self.oldest = min((int(part.versions.min()) for part in parts), default=None)
        self._first_turn = True

    @cached_property
    def trajectory(self) -> str:
        """Names it among all others."""
        return uuid4().hex

    def asks(self) -> None:
        """A request is about to wait for its turn."""
        self._want(True)

    def enter(self) -> int:
        """It enters an engine: the version that its tokens must not be older than."""
        version = self._version()
        self.oldest = version if self.oldest is None else min(self.oldest, version)
        return version

    def received(self, tokens: int) -> None:
        """An answer brought tokens."""
        self.tokens += tokens
        self._ledger.received(tokens)

    def cut(self, part: Generation, discarded: int) -> None:
        """A sync cut the request off: `part` is kept, and `discarded` of the tokens received are not."""
        if len(part.tokens):
            self.parts.append(part)
        self.tokens -= discarded
        self._ledger.discarded(discarded, "cut_off")

    def turn_over(self) -> None:
        """The turn's generation is complete."""
        self.parts.clear()
        self._first_turn = False
        self._want(False)

    def lost(self, reason: str) -> None:
        """The sample failed: nothing of it is of use."""
        self._ledger.discarded(self.tokens, reason)
        self.over()

    def over(self) -> None:
        """Nothing follows: the sample is finished, or was lost or left."""
        self.parts.clear()
        self._want(False)

    @property
    def resumable(self) -> list[Generation]:
        """What another attempt can go on from."""
        return list(self.parts) if self._first_turn else []

    def _want(self, wants: bool) -> None:
        if wants != self._wants:
            self._wants = wants
            self._demand.change(wants)


class CallAttempt(Attempt):
    """One of several generations of a sample that may be under way at once: an agent calls when it likes.

    It wants an engine by itself. What it brings counts for the whole sample, whose other attributes stay as they are.
    """

    def __init__(self, whole: Attempt) -> None:
        super().__init__(whole._version, whole._ledger, whole.number, demand=whole._demand, exactly=whole.exactly)
        self._whole = whole
        self.trajectory = whole.trajectory

    def enter(self) -> int:
        """See Attempt."""
        version = super().enter()
        self._whole.oldest = version if self._whole.oldest is None else min(self._whole.oldest, version)
        return version

    def received(self, tokens: int) -> None:
        """See Attempt."""
        super().received(tokens)
        self._whole.tokens += tokens

    def cut(self, part: Generation, discarded: int) -> None:
        """See Attempt."""
        super().cut(part, discarded)
        self._whole.tokens -= discarded

    def lost(self, reason: str) -> None:
        """Nothing of this generation is of use; the sample goes on."""
        self._whole.tokens -= self.tokens
        super().lost(reason)
        self.tokens = 0

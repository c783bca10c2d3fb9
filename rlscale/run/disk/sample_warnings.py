"""Saying when what is trained on becomes shorter, or longer, than what was started, or is read again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlscale.rollout.length_ratio import LENGTH_RATIO, UNBIASED

_MOST_DUPLICATION = 2.0
"""Tokens read over tokens that differ, past which a run is worth a warning."""


class LengthWarning:
    """Says it once, and once when it is over."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._biased = False

    def heed(self, measures: Mapping[str, float]) -> None:
        """What the rollout service found of its last batch."""
        ratio = measures.get(LENGTH_RATIO, 1.0)
        low, high = UNBIASED
        biased = not low <= ratio <= high
        if biased and not self._biased:
            self._note(
                f"warning: samples that are trained on are {ratio:.2f} times as long as those that were started "
                f"({measures['trained_length']:.0f} and {measures['started_length']:.0f} tokens), which is outside "
                f"{low:g} to {high:g}: see length_ratio in docs/rollout.md"
            )
        if self._biased and not biased:
            self._note(f"length_ratio is {ratio:.2f} again")
        self._biased = biased


class DuplicationWarning:
    """Says once that most of what is trained on was read before."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._said = False

    def heed(self, metrics: Mapping[str, float]) -> None:
        """The metrics of an iteration."""
        found = metrics.get("segment_duplication", 1.0)
        if found > _MOST_DUPLICATION and not self._said:
            self._said = True
            self._note(
                f"warning: samples read {found:.1f} times the tokens that differ in them, in {metrics['segments']:.1f} "
                "segments each: their history is changed often, and each change opens a sequence of its own (an agent "
                "that edits its history, rollout.history=template)"
            )

"""Saying when what is trained on begins to be shorter, or longer, than what was started."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlscale.rollout.length_ratio import LENGTH_RATIO, UNBIASED


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

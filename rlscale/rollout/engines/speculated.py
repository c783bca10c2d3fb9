"""How often drafts were right, as the answers of engines that speculate tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Speculated:
    """Adds up what answers say until somebody takes it. Engines that do not speculate say nothing."""

    def __init__(self) -> None:
        self._forget()

    def answered(self, meta: Mapping[str, Any]) -> None:
        """An answer came with this `meta_info`."""
        if passes := int(meta.get("spec_verify_ct") or 0):
            self._passes += passes
            self._tokens += int(meta["completion_tokens"])
            self._right += int(meta["spec_num_correct_drafts"])
            self._proposed += int(meta["spec_num_proposed_drafts"])

    def take(self) -> dict[str, float]:
        """Of the answers since the last call: the share of proposed tokens that were right, and the tokens that a pass
        of the policy gave, which is how many times as fast it would be if proposals cost nothing."""
        passes, proposed = self._passes, self._proposed
        found = {"speculation/tokens_per_pass": self._tokens / passes} if passes else {}
        if proposed:
            found["speculation/accept_rate"] = self._right / proposed
        self._forget()
        return found

    def _forget(self) -> None:
        self._tokens = self._passes = self._right = self._proposed = 0

"""A reward of one's own: part of the credit for part of the answer."""

from __future__ import annotations

from typing import Any


class DigitsInPlace:
    """1 for the label, `partial` times the share of its digits that stand in their place otherwise."""

    def __init__(self, partial: float = 0.5) -> None:
        self.partial = partial

    def __call__(self, response: str, label: str, info: dict[str, Any]) -> float:
        """The response has no special tokens; `info` holds the other keys of the row. Raise only if you cannot tell."""
        if response == label:
            return 1.0
        right = sum(ours == theirs for ours, theirs in zip(response, label, strict=False))
        return self.partial * right / max(len(response), len(label))

    def check_label(self, label: Any) -> None:
        """Optional: every label is shown to this before the run, which does not start with one that is unusable."""
        if not isinstance(label, str) or not label.isdecimal():
            raise ValueError("is not a text of digits")

"""The response must be the label."""

from __future__ import annotations

from typing import Any


class ExactAnswer:
    """1.0 if the response equals the label after stripping white space, otherwise 0.0.

    With `reverse`, the label is turned round first (for answers written last digit first whose label is not).
    """

    def __init__(self, reverse: bool = False) -> None:
        self._reverse = reverse

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """1.0 or 0.0. ValueError if there is no label."""
        if label is None:
            raise ValueError("there is no label to compare with; set data.label_key")
        expected = str(label).strip()
        return float(response.strip() == (expected[::-1] if self._reverse else expected))

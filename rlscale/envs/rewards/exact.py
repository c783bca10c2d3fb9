"""The response must be the label."""

from __future__ import annotations

from typing import Any

from rlscale.envs.rewards.label import label_text


class ExactAnswer:
    """1.0 if the response equals the label after stripping white space, otherwise 0.0.

    Special tokens may stand at the response's end only: where one stands before or within the answer it is another
    answer. With `reverse`, the label is turned round first (for answers written last digit first whose label is not).
    """

    def __init__(self, reverse: bool = False) -> None:
        self._reverse = reverse

    def __call__(self, response: str, label: Any, info: dict[str, Any], raw_response: str | None = None) -> float:
        """1.0 or 0.0. ValueError if there is no label, or it is not text or a number."""
        expected = label_text(label)
        if raw_response is not None and not raw_response.startswith(response):
            return 0.0  # a special token stands within
        return float(response.strip() == (expected[::-1] if self._reverse else expected))

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label is missing, or not text or a number."""
        label_text(label)

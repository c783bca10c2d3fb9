"""The form of a response, by a regular expression."""

from __future__ import annotations

import re
from typing import Any

from rlscale.config.errors import UserError


class Pattern:
    """1.0 if the whole response matches the regular expression, otherwise 0.0. A dot also stands for a new line.

    `raw`: match the response with its special tokens. A pattern that backtracks for ever on a response makes it wrong,
    after `reward.timeout_s`; it needs no label.
    """

    def __init__(self, pattern: str, raw: bool = False) -> None:
        try:
            self._pattern = re.compile(pattern, re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(f"pattern={pattern}: is not a regular expression: {error}") from None
        self._raw = raw

    def __call__(self, response: str, label: Any, info: dict[str, Any], raw_response: str | None = None) -> float:
        """1.0 or 0.0."""
        text = raw_response if self._raw and raw_response is not None else response
        return float(self._pattern.fullmatch(text) is not None)

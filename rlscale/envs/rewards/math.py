"""Mathematical answers, compared as mathematics with math-verify."""

from __future__ import annotations

import logging
from typing import Any

from rlscale.envs.rewards.label import label_text


class MathAnswer:
    """1.0 if the answer that math-verify finds in the response equals the label, otherwise 0.0.

    Takes the last \\boxed{...}, or else LaTeX and plain expressions; `1/2`, `0.5` and `\\frac{1}{2}` are equal. A
    response without an answer scores 0; a label that is no mathematics is an error. Comparing odd expressions can take
    very long: set `reward.workers` to at least 1, so that `reward.timeout_s` can end it.
    """

    def __init__(self) -> None:
        from math_verify import parse, verify

        # It warns that its own time limits (signals, main thread only) are off; RewardWorker's hold instead.
        for module in ("math_verify.parser", "math_verify.grader"):
            logging.getLogger(module).setLevel(logging.ERROR)
        self._parse = parse
        self._verify = verify

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """1.0 or 0.0. ValueError if the label is missing or no mathematics."""
        text = label_text(label)
        bare = "\\boxed" not in text and "$" not in text
        expected = self._parse(f"\\boxed{{{text}}}" if bare else text, parsing_timeout=None)
        if not expected:
            raise ValueError(f"the label {text[:80]!r} is no mathematics")
        # math-verify would read several boxes as one answer with several parts; the last one is what was meant.
        found = self._parse(response[max(response.rfind("\\boxed"), 0) :], parsing_timeout=None)
        return float(bool(found) and self._verify(expected, found, timeout_seconds=None))

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label is missing, not text or a number, or not mathematics."""
        self("\\boxed{0}", label, {})

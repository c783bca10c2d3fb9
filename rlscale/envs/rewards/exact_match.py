"""The answer must be the label, up to case, punctuation and articles."""

from __future__ import annotations

from typing import Any

from rlscale.envs.rewards.stated import accepted, plain_words, stated


class ExactMatch:
    """1.0 if the answer has the words of the label, or of one of a list, otherwise 0.0.

    The answer is what follows the last `after` on its line, such as "Answer:"; all of the response with null.
    """

    def __init__(self, after: str | None = None) -> None:
        self._after = after

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """1.0 or 0.0. ValueError if there is no label, or one without a word."""
        answer = stated(response, self._after)
        labels = [_words(one) for one in accepted(label)]
        return float(answer is not None and plain_words(answer) in labels)

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label is missing, or has no word to compare."""
        for one in accepted(label):
            _words(one)


def _words(label: str) -> list[str]:
    if not (words := plain_words(label)):
        raise ValueError(
            f"the label {label!r} consists of punctuation and articles only; compare with reward=arithmetic"
        )
    return words

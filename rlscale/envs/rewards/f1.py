"""How many words answer and label share."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rlscale.envs.rewards.stated import accepted, plain_words, stated


class F1:
    """The F1 score of the answer's words against the label's, the best of a list (SQuAD, arXiv 1606.05250).

    Words in lower case, without punctuation and articles. The answer is what follows the last `after` on its line, such
    as "Answer:"; all of the response with null.
    """

    def __init__(self, after: str | None = None) -> None:
        self._after = after

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """From 0.0 to 1.0. ValueError if there is no label."""
        labels = accepted(label)
        answer = stated(response, self._after)
        return 0.0 if answer is None else max(_f1(plain_words(answer), plain_words(one)) for one in labels)

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label is missing."""
        accepted(label)


def _f1(answer: list[str], label: list[str]) -> float:
    if not answer or not label:
        return float(answer == label)
    shared = (Counter(answer) & Counter(label)).total()
    return 2 * shared / (len(answer) + len(label))

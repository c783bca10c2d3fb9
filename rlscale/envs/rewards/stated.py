"""What of a response is its answer, for rewards that compare text."""

from __future__ import annotations

import re
import string
from typing import Any

from rlscale.envs.rewards.label import label_text

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def stated(response: str, after: str | None) -> str | None:
    """What follows the last `after` in the response, up to the end of the line; None if it is not there.

    With None for `after`, all of the response behind its thoughts (`</think>`).
    """
    text = response.rpartition("</think>")[2]
    if after is None:
        return text.strip()
    _, found, answer = text.rpartition(after)
    return answer.strip().partition("\n")[0].strip() if found else None


def plain_words(text: str) -> list[str]:
    """The words in lower case, without punctuation and articles, as SQuAD compares answers (arXiv 1606.05250)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def accepted(label: Any) -> list[str]:
    """The answers that a label accepts: its own text, or each of a list. ValueError if there is none."""
    if isinstance(label, list):
        if not label:
            raise ValueError("the label is an empty list")
        return [label_text(one) for one in label]
    return [label_text(label)]

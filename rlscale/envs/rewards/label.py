"""Labels that are text or a number, and nothing else."""

from __future__ import annotations

import math
from typing import Any


def label_text(label: Any) -> str:
    """The label as text without white space around it; numbers as JSON writes them.

    ValueError with the reason for a label that is missing, empty, a truth value, a mapping, a list or anything else.
    """
    if label is None:
        raise ValueError("there is no label to compare with; set data.label_key")
    if isinstance(label, dict):
        keys = ", ".join(map(str, list(label)[:5]))
        raise ValueError(
            f"the label is a mapping with the keys {keys or '(none)'}; name the one that holds the answer behind a dot "
            "in data.label_key, as in reward_model.ground_truth"
        )
    if isinstance(label, bool) or not isinstance(label, (str, int, float)):
        raise ValueError(f"the label is of type {type(label).__name__}; it must be text or a number")
    if isinstance(label, float) and not math.isfinite(label):
        raise ValueError(f"the label is {label}, which no answer equals")
    text = str(label).strip()
    if not text:
        raise ValueError("the label is empty")
    return text

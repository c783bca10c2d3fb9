"""The job's own reward."""

from __future__ import annotations

import re
from typing import Any

_FORM = re.compile(r"<think>[^<]+</think>(\d+)<\|end\|>")


def thought_and_right(response: str, label: Any, info: dict[str, Any], raw_response: str, form: float = 0.1) -> float:
    """1 for the right number after a thought, `form` for a wrong number after one, 0 for anything else.

    <think> and </think> are special tokens, which `response` is without; rlscale gives `raw_response`, which has them,
    because this function has a parameter of that name. The label is what the data holds: a number here.
    """
    found = _FORM.fullmatch(raw_response)
    if found is None:
        return 0.0
    return 1.0 if int(found[1]) == label else form

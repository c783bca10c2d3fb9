"""No reward: for algorithms that read none, such as distillation on prompts without labels."""

from __future__ import annotations

from typing import Any


def no_reward(response: str, label: Any, info: dict[str, Any]) -> float:
    """0.0, whatever the response; needs no label."""
    return 0.0

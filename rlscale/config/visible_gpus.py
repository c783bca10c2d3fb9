"""Which of a machine's GPUs this process may use: what CUDA_VISIBLE_DEVICES says, where it is set."""

from __future__ import annotations

import os
from collections.abc import Mapping


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The ids in CUDA_VISIBLE_DEVICES (numbers, or UUIDs of GPUs or of parts of one); None where it is not set.

    GPU number i of a configuration is the i-th of them. As CUDA does, the list ends at the first id below 0.
    """
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    ids: list[str] = []
    for item in text.split(","):
        if not item.strip() or item.strip().startswith("-"):
            break
        ids.append(item.strip())
    return ids

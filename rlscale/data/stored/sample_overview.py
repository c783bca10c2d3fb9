"""What of a stored sample is known without reading its tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from rlscale.data.sample import NOT_GENERATED


class SampleOverview(NamedTuple):
    """One sample of a stored iteration."""

    prompt_index: int
    prompt_id: str
    source: str
    reward: float
    generated: int
    """Tokens that the policy generated."""
    oldest_version: int
    """Of the weights that generated one of them; -1 where none did."""


def versions_of(versions: NDArray[Any]) -> tuple[int, int]:
    """How many tokens were generated, and by which weights the oldest, of each token's weight version."""
    generated = versions[versions != NOT_GENERATED]
    return int(generated.size), int(generated.min()) if generated.size else NOT_GENERATED

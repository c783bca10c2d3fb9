"""Groups made by hand, for tests of what becomes of finished ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlscale.data.sample import Group, Prompt, Sample


def prompt_of(index: int) -> Prompt:
    return Prompt(index, str(index), np.array([1, 1], np.int32), None)


def sample_of(index: int, place: int, versions: Sequence[int], reward: float = 0.0) -> Sample:
    """A prompt of two tokens, and one generated token for each version."""
    tokens = np.full(len(versions), 5, np.int32)
    sample = Sample.from_response(prompt_of(index), place, tokens, None, 0)
    sample.versions[sample.prompt_length :] = versions
    sample.reward = reward
    return sample


def group_of(index: int, *versions: Sequence[int]) -> Group:
    """A group whose samples' tokens have these versions."""
    return Group(prompt_of(index), [sample_of(index, place, one) for place, one in enumerate(versions)])

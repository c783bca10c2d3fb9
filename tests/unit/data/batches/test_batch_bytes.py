"""The batch of a run whose samples are one response each, byte for byte as it was when this test was written."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rlscale.data.batches.batch import Batch
from rlscale.data.sample import Group, Prompt, Sample

EXPECTED = {
    False: "9e0bc853dff6226941bcc574aa3bbc270af45d7d1fd7f9f0b3d200aab42ee73e",
    True: "70b1c4a1ab08177842fe7887c0332483ce82db4ddf8fadea553b5b68c000e4c6",
}
"""SHA-256 of offsets and columns, without and with experts."""


def groups(routed: bool) -> list[Group]:
    """Five groups of one to four responses, some without a token, some cut off, by versions 3 to 5."""
    draw = np.random.default_rng(20)
    made = []
    for index in range(5):
        prompt = Prompt(10 + index, str(index), draw.integers(0, 99, draw.integers(1, 9)).astype(np.int32), "")
        samples = []
        for number in range(int(draw.integers(1, 5))):
            length = int(draw.integers(0, 12))
            tokens, logprobs = draw.integers(0, 99, length).astype(np.int32), -draw.random(length).astype(np.float32)
            experts = draw.integers(0, 8, (len(prompt.tokens) + length - 1, 2, 3)).astype(np.int16) if routed else None
            finish, version = ("stop", "length")[int(draw.integers(2))], int(draw.integers(3, 6))
            sample = Sample.from_response(prompt, number, tokens, logprobs, version, finish, routed_experts=experts)
            sample.reward = float(draw.normal())
            samples.append(sample)
        made.append(Group(prompt, samples))
    return made


def digest(batch: Batch) -> str:
    found = hashlib.sha256(batch.offsets.tobytes())
    for name, values in sorted(batch.columns.items()):
        found.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("routed", [False, True])
def test_a_batch_of_single_responses_has_the_same_bytes(routed: bool) -> None:
    assert digest(Batch.from_groups(groups(routed), steps=2)) == EXPECTED[routed]

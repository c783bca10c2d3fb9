"""The bytes of a bucket and their checksum."""

from __future__ import annotations

import torch

from rlscale.weights.transports import flat_bucket


def test_what_is_copied_piece_by_piece_has_the_bytes_and_the_checksum_of_what_is_copied_at_once() -> None:
    random = torch.Generator().manual_seed(0)
    named = [
        ("larger than a piece", torch.randn(300_001, generator=random)),
        ("not aligned", torch.randn(7, generator=random).bfloat16()),
        ("transposed", torch.randn(5, 3, generator=random).t()),
        ("a number", torch.tensor(2.5)),
        ("codes", torch.randint(0, 255, (3, 33), generator=random, dtype=torch.uint8)),
        ("nothing", torch.zeros(0)),
    ]
    entries, size = flat_bucket.contents(named)
    one, other = torch.full((size + 64,), 7, dtype=torch.uint8), torch.full((size + 64,), 7, dtype=torch.uint8)
    checksum = flat_bucket.fill_summed(one, named, entries)
    flat_bucket.fill(other, named, entries)
    assert torch.equal(one, other)
    assert checksum == flat_bucket.sum_of(other, size)
